//! Authentication.

use super::*;
use crate::{
    auth::{Challenge, Prompt},
    wire::{put_bool, put_string, put_u32, put_utf8},
};

/// A client that only does what the test says.
fn silent() -> Pair {
    let settings = ClientSettings { identity: None, interactive: false, ..client_settings() };
    let mut pair = Pair::with(settings, server_config());
    pair.step(usize::MAX);
    pair.step(usize::MAX);
    assert!(pair.client.session_id().is_some());
    // Its `none` request is answered at once; it never hears of it and the test speaks for it from here.
    forward(&mut pair);
    assert!(pair.server.poll_event().is_none());
    pair
}

/// Brings the client's words to the server; the answers are of no interest.
fn forward(pair: &mut Pair) {
    let words = pair.client.take_output(BytesMut::new());
    pair.server_input.extend_from_slice(&words);
    pair.server.receive(&mut pair.server_input, pair.now);
    pair.server.take_output(BytesMut::new());
}

fn request(user: &str, key: &PrivateKey, offered: &PrivateKey, session_id: &[u8]) -> Vec<u8> {
    let mut body = vec![msg::USERAUTH_REQUEST];
    for text in [user, "ssh-connection", "publickey"] {
        put_utf8(&mut body, text);
    }
    put_bool(&mut body, true);
    put_utf8(&mut body, "ssh-ed25519");
    put_string(&mut body, &offered.public().to_wire());
    let mut signed = Vec::new();
    put_string(&mut signed, session_id);
    signed.extend_from_slice(&body);
    put_string(&mut body, &key.sign(&signed));
    body
}

/// What the server's application is asked after the client spoke.
fn said(pair: &mut Pair) -> AuthAttempt {
    forward(pair);
    asked(pair)
}

/// What it is asked after all words went both ways.
fn attempt(pair: &mut Pair) -> AuthAttempt {
    pair.run();
    asked(pair)
}

fn asked(pair: &mut Pair) -> AuthAttempt {
    match pair.server.poll_event() {
        Some(Event::Auth(attempt)) => attempt,
        other => panic!("{other:?} {:?}", pair.server.closed()),
    }
}

#[test]
fn a_certificate_logs_in_split_at_every_byte() {
    let mut pair = Pair::new();
    while pair.step(1) {}
    pair.let_in();
    while pair.step(1) {}
    assert!(matches!(pair.client.poll_event(), Some(Event::Authenticated { .. })));
    let near = pair.client.open(ChannelOpen::Session).unwrap();
    while pair.step(1) {}
    assert!(matches!(pair.server.poll_event(), Some(Event::Authenticated { .. })));
    let Some(Event::Open { channel, .. }) = pair.server.poll_event() else { panic!() };
    pair.server.accept(channel);
    pair.server.send_data(channel, false, b"hello");
    while pair.step(1) {}
    assert_eq!(pair.client.poll_channel(near), Some(Inbound::Data(Bytes::from_static(b"hello"))));
}

#[test]
fn the_best_methods_are_chosen_and_the_guess_saves_a_round_trip() {
    let mut pair = Pair::new();
    // One flight each way and the client has sent its login.
    pair.step(usize::MAX);
    pair.step(usize::MAX);
    pair.step(usize::MAX);
    assert!(matches!(pair.server.poll_event(), Some(Event::Auth(_))));
    assert_eq!(pair.client.session_id(), pair.server.session_id());
    assert_eq!(pair.client.host_key(), Some(&key(2).public()));
}

#[test]
fn a_wrong_guess_is_dropped() {
    let mut settings = client_settings();
    settings.algorithms.kex.reverse();
    let mut pair = Pair::logged_in_with(settings, server_config());
    pair.open();
}

#[test]
fn without_pipelining_the_service_is_awaited() {
    Pair::logged_in_with(ClientSettings { pipelined: false, ..client_settings() }, server_config());
}

#[test]
fn a_channel_opened_before_login_follows_it() {
    let mut pair = Pair::new();
    let near = pair.client.open(ChannelOpen::Session).unwrap();
    pair.run();
    assert!(!pair.server.events.iter().any(|event| matches!(event, Event::Open { .. })));
    pair.let_in();
    pair.run();
    assert!(matches!(pair.server.poll_event(), Some(Event::Authenticated { .. })));
    let Some(Event::Open { channel, .. }) = pair.server.poll_event() else { panic!() };
    pair.server.accept(channel);
    pair.run();
    assert_eq!(notices(&mut pair.client), [Notice::Opened(near)]);
}

/// The client's wishes before a byte has gone.
fn eager(pair: &mut Pair) -> ChannelId {
    pair.client.global_request("target@mezite", b"x", true);
    let near = pair.client.open(ChannelOpen::Session).unwrap();
    assert!(pair.client.request(near, "exec", b"\0\0\0\x04true", true));
    near
}

/// The server's application hears of all of it, and answers.
fn served(pair: &mut Pair, near: ChannelId) {
    assert!(matches!(pair.server.poll_event(), Some(Event::Authenticated { .. })));
    let Some(Event::Global { token: Some(token), .. }) = pair.server.poll_event() else { panic!() };
    pair.server.global_reply(token, None);
    let Some(Event::Open { channel, .. }) = pair.server.poll_event() else { panic!() };
    pair.server.accept(channel);
    let Some(Inbound::Request { token: Some(token), .. }) = pair.server.poll_channel(channel) else { panic!() };
    pair.server.reply(channel, token, true);
    pair.run();
    let told = notices(&mut pair.client);
    assert_eq!(told, [Notice::GlobalReply(None), Notice::Opened(near), Notice::RequestReply(near, true)]);
}

#[test]
fn a_login_a_channel_and_a_command_are_one_flight() {
    let mut pair = Pair::new();
    let near = eager(&mut pair);
    // One flight each way for the keys, one with everything else.
    pair.step(usize::MAX);
    pair.step(usize::MAX);
    pair.step(usize::MAX);
    pair.let_in();
    pair.server.receive(&mut pair.server_input, pair.now);
    served(&mut pair, near);
}

#[test]
fn what_was_asked_along_with_a_first_factor_waits_for_the_second() {
    let mut pair = Pair::new();
    let near = eager(&mut pair);
    pair.run();
    let Some(Event::Auth(_)) = pair.server.poll_event() else { panic!() };
    pair.server.authenticate(AuthReply::Partial(vec![Method::KeyboardInteractive]));
    pair.run();
    let Some(Event::Auth(_)) = pair.server.poll_event() else { panic!("{:?}", pair.server.closed()) };
    assert!(!pair.server.has_event(), "nothing is offered to the application before the login is granted");
    pair.server.authenticate(AuthReply::Accept);
    pair.run();
    served(&mut pair, near);
}

#[test]
fn only_so_much_may_come_along_with_a_login() {
    let mut pair = Pair::new();
    for _ in 0..=MAX_EARLY.0 {
        pair.client.open(ChannelOpen::Session).unwrap();
    }
    pair.run();
    let Some(Event::Auth(_)) = pair.server.poll_event() else { panic!() };
    pair.server.authenticate(AuthReply::Partial(vec![Method::KeyboardInteractive]));
    pair.assert_server_refuses("too many messages before authentication");
}

#[test]
fn a_channel_before_a_login_is_granted_is_heard_of_by_nobody() {
    let mut pair = silent();
    send(&mut pair.client, &[msg::CHANNEL_OPEN]);
    pair.run();
    assert!(!pair.server.has_event());
}

#[test]
fn what_was_asked_on_a_refused_channel_is_nothing() {
    let mut pair = Pair::logged_in();
    let near = pair.client.open(ChannelOpen::Session).unwrap();
    assert!(pair.client.request(near, "exec", b"\0\0\0\x04true", true));
    let other = pair.client.open(ChannelOpen::Session).unwrap();
    pair.run();
    let Some(Event::Open { channel, .. }) = pair.server.poll_event() else { panic!() };
    pair.server.reject(channel, OpenFailure::ConnectFailed, "no");
    assert!(pair.client.request(near, "shell", b"", true));
    pair.run();
    assert_eq!(notices(&mut pair.client), [Notice::OpenFailed(near, OpenFailure::ConnectFailed, "no".to_owned())]);
    let Some(Event::Open { channel, .. }) = pair.server.poll_event() else { panic!("{:?}", pair.server.closed()) };
    pair.server.accept(channel);
    pair.run();
    assert_eq!(notices(&mut pair.client), [Notice::Opened(other)]);
    assert!(pair.client.closed().is_none());
}

#[test]
fn nothing_is_read_while_the_application_thinks() {
    let mut pair = Pair::new();
    pair.client.open(ChannelOpen::Session).unwrap();
    pair.run();
    assert!(!pair.server.reading());
    pair.let_in();
    assert!(pair.server.reading());
}

#[test]
fn a_host_is_believed_by_its_exact_name_only() {
    let authority = |seed, name: &str| HostTrust::Authorities { keys: vec![key(seed).public()], name: name.to_owned() };
    for (trust, believed) in [
        (authority(1, HOST), true),
        (authority(3, HOST), false),
        (authority(1, "node2"), false),
        (authority(1, "Node"), false),
        (HostTrust::Pinned(vec![key(9).public(), key(2).public()]), true),
        (HostTrust::Pinned(vec![key(1).public()]), false),
        (HostTrust::Pinned(Vec::new()), false),
    ] {
        let mut pair = Pair::with(ClientSettings { trust: trust.clone(), ..client_settings() }, server_config());
        pair.run();
        assert_eq!(pair.client.session_id().is_some(), believed, "{trust:?}");
        assert_eq!(matches!(pair.client.closed(), Some(CloseReason::Fault(_))), !believed, "{trust:?}");
        assert_eq!(matches!(pair.server.poll_event(), Some(Event::Auth(_))), believed, "{trust:?}");
    }
}

#[test]
fn only_the_key_that_signed_counts() {
    let mut pair = silent();
    let id = pair.client.session_id().unwrap();
    // Signed by another key than the one named; over another session; for another user.
    let mut other_user = request("root", &key(7), &key(7), &id);
    let name = other_user.windows(4).position(|window| window == b"root").unwrap();
    other_user[name..name + 4].copy_from_slice(b"toor");
    for bad in [request(USER, &key(8), &key(7), &id), request(USER, &key(7), &key(7), &[0; 32]), other_user] {
        send(&mut pair.client, &bad);
        forward(&mut pair);
        assert!(pair.server.poll_event().is_none());
    }
    send(&mut pair.client, &request(USER, &key(7), &key(7), &id));
    let attempt = said(&mut pair);
    assert!(matches!(attempt.method, AuthMethod::PublicKey(Credential::Key(signer)) if signer == key(7).public()));
}

#[test]
fn the_algorithm_must_fit_the_key() {
    let mut pair = silent();
    let id = pair.client.session_id().unwrap();
    for name in ["ssh-rsa", "rsa-sha2-256", "ecdsa-sha2-nistp256", "ssh-ed25519-cert-v01@openssh.com", "ssh-dss"] {
        let mut message = vec![msg::USERAUTH_REQUEST];
        for text in [USER, "ssh-connection", "publickey"] {
            put_utf8(&mut message, text);
        }
        put_bool(&mut message, false);
        put_utf8(&mut message, name);
        put_string(&mut message, &key(7).public().to_wire());
        send(&mut pair.client, &message);
        forward(&mut pair);
        assert!(pair.server.poll_event().is_none(), "{name}");
    }
    send(&mut pair.client, &request(USER, &key(7), &key(7), &id));
    said(&mut pair);
}

#[test]
fn what_one_user_proved_is_not_another_users() {
    let mut pair = silent();
    let id = pair.client.session_id().unwrap();
    send(&mut pair.client, &request(USER, &key(7), &key(7), &id));
    assert!(said(&mut pair).proven.is_empty());
    pair.server.authenticate(AuthReply::Partial(vec![Method::PublicKey]));
    send(&mut pair.client, &request(USER, &key(8), &key(8), &id));
    assert_eq!(said(&mut pair).proven.len(), 1);
    pair.server.authenticate(AuthReply::Partial(vec![Method::KeyboardInteractive, Method::PublicKey]));
    send(&mut pair.client, &request("root", &key(8), &key(8), &id));
    let attempt = said(&mut pair);
    assert_eq!((attempt.user.as_str(), attempt.proven.len()), ("root", 0));
}

#[test]
fn a_method_that_is_not_open_is_not_tried() {
    let mut pair = silent();
    let id = pair.client.session_id().unwrap();
    send(&mut pair.client, &request(USER, &key(7), &key(7), &id));
    said(&mut pair);
    pair.server.authenticate(AuthReply::Partial(vec![Method::KeyboardInteractive]));
    send(&mut pair.client, &request(USER, &key(7), &key(7), &id));
    forward(&mut pair);
    assert!(pair.server.poll_event().is_none());
}

#[test]
fn six_tries_and_no_more() {
    let mut pair = silent();
    let id = pair.client.session_id().unwrap();
    for n in 0..6 {
        assert!(pair.server.closed().is_none(), "{n}");
        send(&mut pair.client, &request(USER, &key(7), &key(7), &id));
        said(&mut pair);
        pair.server.authenticate(AuthReply::Refuse);
    }
    assert!(matches!(pair.server.closed(), Some(CloseReason::Fault(fault)) if fault.message().contains("too many")));
}

#[test]
fn passwords_and_other_methods_fail_without_a_word() {
    for method in ["password", "hostbased", "gssapi-with-mic", "keyboard-interactive", "none"] {
        let mut pair = silent();
        let mut message = vec![msg::USERAUTH_REQUEST];
        for text in [USER, "ssh-connection", method] {
            put_utf8(&mut message, text);
        }
        message.extend_from_slice(&[0xff; 64]);
        send(&mut pair.client, &message);
        forward(&mut pair);
        assert!(pair.server.poll_event().is_none(), "{method}");
        assert!(pair.server.closed().is_none(), "{method}");
    }
}

fn ask() -> Challenge {
    let prompts = vec![Prompt { text: "Code: ".to_owned(), echo: false }];
    Challenge { name: "MFA".to_owned(), instruction: "look at your phone".to_owned(), prompts }
}

#[test]
fn a_second_factor_follows_the_certificate() {
    let mut pair = Pair::new();
    attempt(&mut pair);
    pair.server.authenticate(AuthReply::Partial(vec![Method::KeyboardInteractive]));
    for right in [false, true] {
        let asked = attempt(&mut pair);
        assert!(matches!(asked.method, AuthMethod::KeyboardInteractive));
        assert_eq!(asked.proven.len(), 1);
        pair.server.authenticate(AuthReply::Challenge(ask()));
        pair.run();
        let Some(Event::Challenge(challenge)) = pair.client.poll_event() else { panic!() };
        assert_eq!(challenge, ask());
        pair.client.answer(Some(&[Zeroizing::new("123456".to_owned())]));
        let answered = attempt(&mut pair);
        let AuthMethod::KeyboardResponses(answers) = answered.method else { panic!() };
        assert_eq!(*answers[0], "123456");
        pair.server.authenticate(if right { AuthReply::Accept } else { AuthReply::Refuse });
    }
    pair.run();
    assert!(matches!(pair.client.poll_event(), Some(Event::Authenticated { .. })));
}

/// Certificate accepted in part, code asked for: the client's application has the question.
fn asked_for_a_code(pair: &mut Pair) {
    attempt(pair);
    pair.server.authenticate(AuthReply::Partial(vec![Method::KeyboardInteractive]));
    attempt(pair);
    pair.server.authenticate(AuthReply::Challenge(ask()));
    pair.run();
    assert!(matches!(pair.client.poll_event(), Some(Event::Challenge(_))));
}

#[test]
fn a_code_is_asked_for_again_in_one_round_and_what_came_along_waits() {
    let mut pair = Pair::new();
    let near = eager(&mut pair);
    asked_for_a_code(&mut pair);
    for code in ["000000", "123456"] {
        assert!(notices(&mut pair.client).is_empty());
        pair.client.answer(Some(&[Zeroizing::new(code.to_owned())]));
        let answered = attempt(&mut pair);
        assert!(!pair.server.has_event(), "nothing is offered to the application before the login is granted");
        assert_eq!(answered.proven.len(), 1);
        let AuthMethod::KeyboardResponses(answers) = answered.method else { panic!() };
        if *answers[0] == "123456" {
            pair.server.authenticate(AuthReply::Accept);
            continue;
        }
        let again = Challenge { instruction: "wrong".to_owned(), ..ask() };
        pair.server.authenticate(AuthReply::Challenge(again.clone()));
        pair.run();
        assert!(matches!(pair.client.poll_event(), Some(Event::Challenge(asked)) if asked == again));
    }
    pair.run();
    served(&mut pair, near);
}

#[test]
fn answers_are_as_many_as_questions_and_short() {
    for answers in [&[][..], &["1", "2"], &[&"x".repeat(1025)]] {
        let mut pair = Pair::new();
        asked_for_a_code(&mut pair);
        let mut message = vec![msg::USERAUTH_61];
        put_u32(&mut message, u32::try_from(answers.len()).unwrap());
        answers.iter().for_each(|answer| put_utf8(&mut message, answer));
        send(&mut pair.client, &message);
        forward(&mut pair);
        assert!(pair.server.poll_event().is_none(), "{answers:?}");
        // The question is over: an answer now is to nothing.
        send(&mut pair.client, &[msg::USERAUTH_61, 0, 0, 0, 0]);
        pair.assert_server_refuses("out of place");
    }
}

#[test]
fn a_second_factor_is_asked_of_whoever_proved_the_first() {
    let mut pair = silent();
    let id = pair.client.session_id().unwrap();
    let interactive = |user: &str| {
        let mut message = vec![msg::USERAUTH_REQUEST];
        for text in [user, "ssh-connection", "keyboard-interactive", "", ""] {
            put_utf8(&mut message, text);
        }
        message
    };
    send(&mut pair.client, &interactive(USER));
    forward(&mut pair);
    assert!(pair.server.poll_event().is_none(), "before the certificate");
    send(&mut pair.client, &request(USER, &key(7), &key(7), &id));
    said(&mut pair);
    pair.server.authenticate(AuthReply::Partial(vec![Method::KeyboardInteractive]));
    send(&mut pair.client, &interactive("root"));
    forward(&mut pair);
    assert!(pair.server.poll_event().is_none(), "under another name");
    send(&mut pair.client, &interactive(USER));
    forward(&mut pair);
    assert!(pair.server.poll_event().is_none(), "what the name had proved went with the other one");
}

#[test]
fn a_client_that_cannot_be_asked_says_so() {
    let mut pair = Pair::with(ClientSettings { interactive: false, ..client_settings() }, server_config());
    attempt(&mut pair);
    pair.server.authenticate(AuthReply::Partial(vec![Method::KeyboardInteractive]));
    pair.run();
    let Some(CloseReason::Denied { methods }) = pair.client.closed() else { panic!("{:?}", pair.client.closed()) };
    assert_eq!(methods, &["keyboard-interactive"]);
}

#[test]
fn a_user_who_gives_up_ends_the_login() {
    let mut pair = Pair::new();
    attempt(&mut pair);
    pair.server.authenticate(AuthReply::Partial(vec![Method::KeyboardInteractive]));
    attempt(&mut pair);
    pair.server.authenticate(AuthReply::Challenge(ask()));
    pair.run();
    pair.client.answer(None);
    pair.run();
    assert!(matches!(pair.client.closed(), Some(CloseReason::Local { .. })));
    assert!(matches!(pair.server.closed(), Some(CloseReason::Peer { .. })));
}

#[test]
fn a_challenge_answers_only_the_method_that_asks() {
    let mut pair = Pair::new();
    attempt(&mut pair);
    pair.server.authenticate(AuthReply::Challenge(ask()));
    pair.run();
    assert!(matches!(pair.client.closed(), Some(CloseReason::Denied { .. })));
}

#[test]
fn the_login_has_an_end() {
    let mut pair = Pair::new();
    pair.run();
    let deadline = pair.server.deadline().unwrap();
    assert_eq!(deadline, pair.now + Duration::from_secs(30));
    pair.server.tick(deadline - Duration::from_millis(1));
    assert!(pair.server.closed().is_none());
    pair.server.tick(deadline);
    assert!(matches!(pair.server.closed(), Some(CloseReason::TimedOut(_))));
}

#[test]
fn the_banner_is_told() {
    let banner = Some("be good\n".to_owned());
    let pair = Pair::logged_in_with(client_settings(), ServerConfig { banner, ..server_config() });
    assert_eq!(pair.client.banner(), "be good\n");
}
