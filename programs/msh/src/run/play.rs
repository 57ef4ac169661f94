//! `play`.

use std::fs::File;
use std::io::BufReader;

use mezite_client::player::{self, Cast, Options};
use mezite_client::{Error, Result};
use mezite_core::name;

use super::Context;
use crate::args::Play;

pub(super) async fn run(context: &Context, args: Play) -> Result<()> {
    let idle_limit = args.idle_limit.map(|limit| limit.0);
    let cast = if name::is_uuid(&args.source) {
        let profile = context.profile()?;
        let path = format!("/v1/webapi/sessions/{}/recording", args.source);
        let recording = context.session(&profile)?.web.download(&path).await?;
        Cast::read(&*recording, idle_limit)?
    } else {
        let file = File::open(&args.source).map_err(|error| {
            Error::Local(format!("cannot open {}: {error}; give a session id or a .cast file", args.source))
        })?;
        Cast::read(BufReader::new(file), idle_limit)
            .map_err(|error| Error::Local(format!("{}: {error}", args.source)))?
    };
    player::play(&cast, Options { speed: args.speed, idle_limit, raw: args.raw }).await
}
