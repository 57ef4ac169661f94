//! Answers a node that asks for a code before it lets its user in.
//!
//! What is shown is ours, whatever the node would have it say: a node gets a code, never the answer to another question.

use std::sync::{Arc, Mutex, PoisonError};

use mezite_core::Fault;
use mezite_core::text::escape_control;
use mezite_net::ssh::{Answer, Challenge};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::ssh_dial::Target;
use crate::terminal::ask_secret;

/// Codes for one login on a node.
pub struct Codes {
    state: Mutex<State>,
}

struct State {
    /// From the command line, until it is used.
    given: Option<Zeroizing<String>>,
    was_given: bool,
    /// Why the last question was not answered.
    failure: Option<Error>,
}

/// What to do about a question.
enum Step {
    Answer(Vec<Zeroizing<String>>),
    Ask,
    GiveUp(Error),
}

impl Codes {
    /// Answers with `given`, once; without it the terminal is asked.
    #[must_use]
    pub fn new(given: Option<String>) -> Arc<Self> {
        let was_given = given.is_some();
        Arc::new(Self { state: Mutex::new(State { given: given.map(Zeroizing::new), was_given, failure: None }) })
    }

    /// What the SSH client asks.
    pub(crate) fn prompt(self: &Arc<Self>, target: &Target) -> Answer {
        let (codes, what) = (Arc::clone(self), format!("{}@{}", target.login, target.node));
        Arc::new(move |challenge| {
            let (codes, what) = (Arc::clone(&codes), what.clone());
            Box::pin(async move {
                let failure = match codes.with(|state| state.step(&challenge, &what)) {
                    Step::Answer(answers) => return Some(answers),
                    Step::GiveUp(error) => error,
                    Step::Ask => match ask(&challenge, &what).await {
                        Ok(code) => return Some(vec![code]),
                        Err(error) => error,
                    },
                };
                codes.with(|state| state.failure = Some(failure));
                None
            })
        })
    }

    /// Why the login was given up here, if it was.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.with(|state| state.failure.take())
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn step(&mut self, challenge: &Challenge, what: &str) -> Step {
        match challenge.prompts.as_slice() {
            [] => Step::Answer(Vec::new()),
            [prompt] if !prompt.echo => match self.given.take() {
                Some(code) => Step::Answer(vec![code]),
                None if self.was_given => {
                    Step::GiveUp(Fault::Denied(format!("{what} refused the code{}", said(challenge))).into())
                }
                None => Step::Ask,
            },
            _ => Step::GiveUp(
                Fault::Denied(format!("{what} asks for something other than a code; nothing was sent")).into(),
            ),
        }
    }
}

async fn ask(challenge: &Challenge, what: &str) -> Result<Zeroizing<String>, Error> {
    if !challenge.instruction.is_empty() {
        eprintln!("msh: {what} refused the code{}", said(challenge));
    }
    ask_secret(&format!("MFA code for {}: ", escape_control(what))).await.map_err(|error| match error {
        Error::Local(_) => Fault::MfaNeeded(format!(
            "{what} asks for a code of your authenticator, and there is no terminal to ask at; use --mfa-code=CODE"
        ))
        .into(),
        other => other,
    })
}

/// The node's explanation, as an addition to a sentence of ours.
fn said(challenge: &Challenge) -> String {
    let text: String = challenge.instruction.chars().take(200).collect();
    if text.is_empty() { String::new() } else { format!(": {}", escape_control(&text)) }
}

#[cfg(test)]
mod tests {
    use mezite_net::ssh::Prompt;

    use super::*;

    fn challenge(prompts: &[(&str, bool)], instruction: &str) -> Challenge {
        let prompts = prompts.iter().map(|(text, echo)| Prompt { text: (*text).to_owned(), echo: *echo }).collect();
        Challenge { name: String::new(), instruction: instruction.to_owned(), prompts }
    }

    async fn answered(codes: &Arc<Codes>, challenge: Challenge) -> Option<Vec<String>> {
        let target = Target { login: "ubuntu".into(), node: "web".into() };
        let answers = codes.prompt(&target)(challenge).await?;
        Some(answers.iter().map(|answer| answer.to_string()).collect())
    }

    #[tokio::test]
    async fn a_code_of_the_command_line_is_given_once() {
        let codes = Codes::new(Some("123456".into()));
        let code = || challenge(&[("MFA code: ", false)], "the code is wrong\u{1b}");
        assert_eq!(answered(&codes, challenge(&[], "")).await.unwrap().len(), 0);
        assert_eq!(answered(&codes, code()).await.unwrap(), ["123456"]);
        assert!(answered(&codes, code()).await.is_none());
        let failure = codes.take_failure().unwrap().to_string();
        assert!(failure.contains("ubuntu@web refused the code: the code is wrong\\u{1b}"), "{failure}");
        assert!(codes.take_failure().is_none());
    }

    #[tokio::test]
    async fn a_node_gets_a_code_and_nothing_else() {
        for prompts in [&[("Password: ", true)][..], &[("Code: ", false), ("Password: ", false)]] {
            let codes = Codes::new(Some("123456".into()));
            assert!(answered(&codes, challenge(prompts, "")).await.is_none());
            assert!(codes.take_failure().unwrap().to_string().contains("something other than a code"));
        }
    }
}
