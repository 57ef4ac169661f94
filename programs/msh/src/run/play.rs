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
        let Some(reason) = recording.broken_off else {
            return play(&Cast::read(&*recording.bytes, idle_limit)?, &args).await;
        };
        // The hub gives out nothing of a piece that does not verify.
        let check = format!("{reason}; `mezctl recordings verify {}` says what is wrong", args.source);
        let mut cast = Cast::read(&*recording.bytes, idle_limit).map_err(|_| Error::Local(check.clone()))?;
        cast.damage = Some(check);
        cast
    } else {
        let file = File::open(&args.source).map_err(|error| {
            Error::Local(format!("cannot open {}: {error}; give a session id or a .cast file", args.source))
        })?;
        Cast::read(BufReader::new(file), idle_limit)
            .map_err(|error| Error::Local(format!("{}: {error}", args.source)))?
    };
    play(&cast, &args).await
}

async fn play(cast: &Cast, args: &Play) -> Result<()> {
    player::play(cast, Options { speed: args.speed, raw: args.raw }).await
}
