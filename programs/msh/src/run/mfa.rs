//! `mfa add|ls|rm`.

use std::io::{IsTerminal, stdout};

use mezite_client::api::{ConfirmRequest, EnrolRequest, Enrolment, Factors, RemoveFactor};
use mezite_client::cli::{self, Format};
use mezite_client::login::Hub;
use mezite_client::{Error, Result};
use mezite_core::Fault;
use mezite_core::text::{Table, escape_control};
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::json;

use super::Context;
use super::login::{CODE, seconds};
use crate::args::{AddFactor, Mfa, Output};

pub(super) async fn run(context: &Context, command: Mfa) -> Result<()> {
    let profile = context.profile()?;
    let hub = context.session(&profile)?;
    match command {
        Mfa::Add(args) => add(hub, args).await,
        Mfa::Ls(args) => list(hub, &args).await,
        Mfa::Rm { name, otp } => remove(hub, &name, otp).await,
    }
}

async fn add(mut hub: Hub, args: AddFactor) -> Result<()> {
    let enrolment = match begin(&mut hub, &args.name, &args.otp).await {
        Err(Error::Fault(Fault::MfaNeeded(_))) if args.otp.is_empty() => {
            let otp = cli::code(None, false, "Code of an authenticator that you have already: ").await?;
            begin(&mut hub, &args.name, &otp).await?
        }
        enrolment => enrolment?,
    };
    show(&enrolment.uri, args.output.format)?;
    let code = cli::code(None, false, "Code that the authenticator shows: ").await?;
    let confirm = ConfirmRequest { id: &enrolment.id, code: code.trim() };
    hub.web.post_only("/v1/webapi/mfa/totp/finish", &confirm).await?;
    match args.output.format {
        Format::Text => cli::print(&format!("Factor {} added; it is asked for at login\n", escape_control(&args.name))),
        // Standard output holds one document.
        Format::Json | Format::Yaml => Ok(()),
    }
}

async fn begin(hub: &mut Hub, name: &str, otp: &str) -> Result<Enrolment> {
    hub.web.post("/v1/webapi/mfa/totp/begin", &EnrolRequest { name, otp: otp.trim() }).await
}

/// The address, and on a terminal the same as a picture.
fn show(uri: &str, format: Format) -> Result<()> {
    format.print_text(&json!({ "uri": uri }), |_| {
        let picture = if stdout().is_terminal() { picture(uri) } else { String::new() };
        format!("{picture}Scan it with your authenticator, or give it this address:\n{}\n", escape_control(uri))
    })
}

/// A QR code of half-block characters, light on a dark terminal. Empty for what is too long for one.
fn picture(text: &str) -> String {
    let Ok(code) = QrCode::new(text) else { return String::new() };
    let lines = code.render::<Dense1x2>().dark_color(Dense1x2::Dark).light_color(Dense1x2::Light).build();
    format!("{lines}\n\n")
}

async fn list(mut hub: Hub, args: &Output) -> Result<()> {
    let factors = hub.web.get::<Factors>("/v1/webapi/mfa").await?.factors;
    args.format.print(&factors, |factors| {
        let mut table = Table::new(&["NAME", "TYPE", "ADDED", "LAST USED"]);
        for factor in factors {
            let used = if factor.last_used_unix == 0 { "never".to_owned() } else { seconds(factor.last_used_unix) };
            table.row([factor.name.clone(), factor.r#type.clone(), seconds(factor.added_unix), used]);
        }
        table
    })
}

async fn remove(mut hub: Hub, name: &str, otp: Option<String>) -> Result<()> {
    let otp = cli::code(otp, false, CODE).await?;
    hub.web.post_only("/v1/webapi/mfa/remove", &RemoveFactor { name, otp: otp.trim() }).await?;
    cli::print(&format!("Factor {} removed\n", escape_control(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_the_longest_names_still_makes_a_picture() {
        let uri = mezite_core::totp::uri(&[255; 20], &"c".repeat(253), &"u".repeat(128));
        let picture = picture(&uri);
        let widths: Vec<usize> = picture.lines().filter(|line| !line.is_empty()).map(|l| l.chars().count()).collect();
        assert!(widths.len() > 30 && widths.iter().all(|width| *width == widths[0]), "{widths:?}");
        assert!(picture.chars().all(|c| matches!(c, '█' | '▀' | '▄' | ' ' | '\n')));
    }
}
