use core::time::Duration;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use nf_transport_pki::{Authority, Issued};

use super::*;
use crate::secure::handshake::tests::{bindings, play};
use crate::secure::{
    Admission, Channel, Key, Pass, ReceiverHandshake, SenderHandshake, SenderHandshakeError, Suite, Turned,
};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn in_a_year() -> SystemTime {
    SystemTime::now() + YEAR
}

const RECEIVER: &str = "collector.example.net";

fn pem<'a>(authority: &'a Authority, own: &'a Issued) -> Pem<'a> {
    Pem {
        authority: authority.pem.as_bytes(),
        certificate: own.certificate.as_bytes(),
        key: own.key.as_bytes(),
    }
}

/// A sender with this certificate, which believes `authority`.
fn sender(authority: &Authority, own: &Issued) -> SenderHandshake {
    SenderHandshake::tls(&SenderTls::new(pem(authority, own), None).unwrap(), RECEIVER).unwrap()
}

/// A receiver that lets in whom `authority` signed.
fn receiver(authority: &Authority, revoked: &[&Issued], senders: &[&str]) -> Admission {
    let own = authority.issue(RECEIVER, 1, in_a_year());
    let lists = if revoked.is_empty() { Vec::new() } else { vec![list_file(authority.revoke(revoked))] };
    let senders = senders.iter().map(|id| id.parse().unwrap()).collect();
    let tls = ReceiverTls::new(pem(authority, &own), &lists, senders).unwrap();
    Admission { tls: Some(tls), ..Admission::default() }
}

fn list_file(pem: String) -> RevocationFile {
    RevocationFile { path: "crl.pem".into(), text: pem.into_bytes() }
}

#[test]
fn a_list_names_its_file_and_its_next_update() {
    let authority = Authority::new("one");
    let own = authority.issue(RECEIVER, 1, in_a_year());
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let lists = [list_file(authority.revoke_until(&[&own], until))];
    let tls = ReceiverTls::new(pem(&authority, &own), &lists, Vec::new()).unwrap();
    let (path, this_update) = ("crl.pem".into(), 1_577_836_800);
    assert_eq!(tls.revoked, [RevocationList { path, this_update, next_update: Some(1_900_000_000) }]);
}

#[test]
fn an_expired_list_goes_on_to_reject_what_is_in_it() {
    let authority = Authority::new("one");
    let [own, bad, good] = [(RECEIVER, 1), ("bad", 2), ("good", 3)]
        .map(|(name, serial)| authority.issue(name, serial, in_a_year()));
    let expired = authority.revoke_until(&[&bad], SystemTime::now() - YEAR);
    let tls = ReceiverTls::new(pem(&authority, &own), &[list_file(expired)], Vec::new()).unwrap();
    let admission = || Admission { tls: Some(tls.clone()), ..Admission::default() };
    assert!(outcome(sender(&authority, &bad), admission()).1.unwrap_err().contains("evoked"));
    assert_eq!(outcome(sender(&authority, &good), admission()).1.unwrap().as_str(), "good");
}

fn unchanged(_: usize, bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

fn lost() -> String {
    "nothing more came".to_owned()
}

/// What either side says of a handshake.
fn outcome(
    sender: SenderHandshake,
    admission: Admission,
) -> (Result<Channel, String>, Result<SenderId, String>) {
    let receiver = ReceiverHandshake::new(Arc::new(admission), false);
    let (at_sender, at_receiver) = play(sender, receiver, &mut unchanged);
    let sender_says =
        at_sender.ok_or_else(lost).and_then(|outcome| outcome.map_err(|error| error.to_string()));
    let name = |outcome: Result<crate::secure::Admitted, Turned>| match outcome {
        Ok(admitted) => {
            assert!(matches!(admitted.pass, Pass::Certificate { .. }));
            Ok(admitted.sender)
        }
        Err(turned) => Err(turned.to_string()),
    };
    (sender_says, at_receiver.ok_or_else(lost).and_then(name))
}

#[test]
fn a_sender_with_a_good_certificate_is_let_in_by_its_name() {
    let authority = Authority::new("one");
    let own = authority.issue("brno-edge", 2, in_a_year());
    for senders in [&[][..], &["other", "brno-edge"]] {
        let (channel, name) = outcome(sender(&authority, &own), receiver(&authority, &[], senders));
        assert_eq!(channel.unwrap().cipher(), "tls");
        assert_eq!(name.unwrap().as_str(), "brno-edge");
    }
}

#[test]
fn both_ends_share_a_binding_that_no_other_connection_has() {
    let authority = Authority::new("one");
    let own = authority.issue("brno-edge", 2, in_a_year());
    let connect = || {
        let receiver = ReceiverHandshake::new(Arc::new(receiver(&authority, &[], &[])), false);
        bindings(sender(&authority, &own), receiver)
    };
    let (first, second) = (connect(), connect());
    assert_eq!((first.0, second.0), (first.1, second.1));
    assert_ne!(first.0, second.0);
}

#[test]
fn both_ends_carry_bytes_of_any_length_and_notice_what_is_changed() {
    let authority = Authority::new("one");
    let own = authority.issue("brno-edge", 2, in_a_year());
    let connected = || {
        let receiver = ReceiverHandshake::new(Arc::new(receiver(&authority, &[], &[])), false);
        match play(sender(&authority, &own), receiver, &mut unchanged) {
            (Some(Ok(sender)), Some(Ok(admitted))) => (sender, admitted.channel),
            other => panic!("{other:?}"),
        }
    };
    let sealed = |channel: &mut Channel, mut plain: Bytes| {
        let mut all = BytesMut::new();
        while !plain.is_empty() {
            let mut wire = BytesMut::new();
            channel.seal(&mut plain, &mut wire).unwrap();
            all.extend_from_slice(&wire);
        }
        all
    };
    let (mut at_sender, mut at_receiver) = connected();
    for length in [1, 1000, 16_385, 300_000] {
        let plain = Bytes::from(vec![7; length]);
        let (mut opened, mut back) = (Vec::new(), Vec::new());
        for piece in sealed(&mut at_sender, plain.clone()).chunks(1000) {
            at_receiver.open(piece, &mut |bytes| opened.extend_from_slice(bytes)).unwrap();
        }
        at_sender
            .open(&sealed(&mut at_receiver, plain.clone()), &mut |bytes| back.extend_from_slice(bytes))
            .unwrap();
        assert!(opened == plain && back == plain, "{length}");
    }
    let (mut at_sender, mut at_receiver) = connected();
    let mut changed = sealed(&mut at_sender, Bytes::from_static(b"flows"));
    *changed.last_mut().unwrap() ^= 1;
    let mut opened = Vec::new();
    assert!(at_receiver.open(&changed, &mut |bytes| opened.extend_from_slice(bytes)).is_err());
    assert!(opened.is_empty());
}

#[test]
fn who_is_signed_by_another_has_ended_or_was_revoked_is_refused_with_the_reason() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let foreign = other.issue("brno-edge", 2, in_a_year());
    let ended = authority.issue("brno-edge", 3, SystemTime::now() - Duration::from_secs(3600));
    let revoked = authority.issue("brno-edge", 4, in_a_year());
    for (own, words) in [(&foreign, "UnknownIssuer"), (&ended, "Expired"), (&revoked, "Revoked")] {
        let (_, said) = outcome(sender(&authority, own), receiver(&authority, &[&revoked], &[]));
        let said = said.unwrap_err();
        assert!(said.starts_with("TLS: ") && said.to_lowercase().contains(&words.to_lowercase()), "{said}");
    }
}

#[test]
fn a_receiver_that_is_not_who_it_should_be_is_refused_by_the_sender() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let own = authority.issue("brno-edge", 2, in_a_year());
    let (said, _) = outcome(sender(&other, &own), receiver(&authority, &[], &[]));
    assert!(said.unwrap_err().contains("UnknownIssuer"));
    let wrong_name = SenderTls::new(pem(&authority, &own), Some("elsewhere.example.net")).unwrap();
    let wrong_name = SenderHandshake::tls(&wrong_name, RECEIVER).unwrap();
    let (said, at_receiver) = outcome(wrong_name, receiver(&authority, &[], &[]));
    assert!(said.unwrap_err().contains("elsewhere.example.net"));
    assert!(at_receiver.is_err());
}

#[test]
fn a_good_certificate_whose_name_is_not_let_in_is_told_so_inside_the_channel() {
    let authority = Authority::new("one");
    let own = authority.issue("brno-edge", 2, in_a_year());
    let mut last = Vec::new();
    let mut keep = |number: usize, bytes: Vec<u8>| {
        if number % 2 == 1 {
            last.clone_from(&bytes);
        }
        bytes
    };
    let admission = receiver(&authority, &[], &["praha-edge"]);
    let receiver = ReceiverHandshake::new(Arc::new(admission), false);
    let (at_sender, at_receiver) = play(sender(&authority, &own), receiver, &mut keep);
    assert!(matches!(at_receiver, Some(Err(Turned::NameNotAdmitted(name))) if name.as_str() == "brno-edge"));
    let mut heard = Vec::new();
    at_sender.unwrap().unwrap().open(&last, &mut |bytes| heard.extend_from_slice(bytes)).unwrap();
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert!(heard.contains("'senders' in [tls] does not have this name"), "{heard}");
}

#[test]
fn a_name_among_the_certificates_is_taken_by_no_other_proof() {
    let authority = Authority::new("one");
    let [shared, own, unknown] = [(), (), ()].map(|()| Key::generate().unwrap());
    let admission = || Admission {
        shared: vec![shared.clone()],
        suites: vec![Suite::Aes256Gcm],
        plaintext: true,
        ..receiver(&authority, &[], &["brno-edge"])
    };
    let keyed = |id: &str, key| SenderHandshake::keyed(&id.parse().unwrap(), key, Suite::Aes256Gcm);
    let reserved = "accepted by its certificate only";
    let (at_sender, at_receiver) = outcome(keyed("brno-edge", &shared), admission());
    assert!(at_receiver.unwrap_err().contains(reserved));
    let stranger = outcome(keyed("brno-edge", &unknown), admission()).0;
    assert_eq!(at_sender.unwrap_err(), stranger.unwrap_err(), "the sender cannot tell which ids there are");
    let clear = |id: &str| SenderHandshake::plain(&id.parse().unwrap());
    assert!(outcome(clear("brno-edge"), admission()).1.unwrap_err().contains(reserved));
    let without_key =
        || Admission { senders: [("keyless".parse().unwrap(), Vec::new())].into(), ..admission() };
    for sender in [keyed("keyless", &shared), clear("keyless")] {
        assert!(outcome(sender, without_key()).1.unwrap_err().contains(reserved));
    }
    let certificate = authority.issue("brno-edge", 2, in_a_year());
    outcome(sender(&authority, &certificate), admission()).1.unwrap();
    let accepts = |sender, admission| {
        let receiver = ReceiverHandshake::new(Arc::new(admission), false);
        matches!(play(sender, receiver, &mut unchanged).1, Some(Ok(_)))
    };
    assert!(accepts(keyed("other", &shared), admission()) && accepts(clear("other"), admission()));
    let senders = [("brno-edge".parse().unwrap(), vec![own.clone()])].into();
    assert!(accepts(keyed("brno-edge", &own), Admission { senders, ..admission() }));
}

#[test]
fn a_name_that_is_reserved_now_ends_sessions_without_a_certificate() {
    let authority = Authority::new("one");
    let (shared, id) = (Key::generate().unwrap(), "brno-edge".parse().unwrap());
    let pass = Pass::Key { id: shared.id(), suite: Suite::Aes256Gcm };
    let admission = |names: &[&str]| Admission {
        shared: vec![shared.clone()],
        suites: vec![Suite::Aes256Gcm],
        plaintext: true,
        ..receiver(&authority, &[], names)
    };
    for pass in [pass, Pass::ClearText { is_local: true }] {
        assert!(admission(&["praha-edge"]).still_admits(&id, &pass));
        assert!(!admission(&["brno-edge"]).still_admits(&id, &pass));
    }
}

#[test]
fn a_sender_with_a_key_and_a_receiver_with_certificates_only_do_not_come_together_and_say_why() {
    let authority = Authority::new("one");
    let keyed =
        SenderHandshake::keyed(&"brno-edge".parse().unwrap(), &Key::generate().unwrap(), Suite::Aes256Gcm);
    let (at_sender, at_receiver) = outcome(keyed, receiver(&authority, &[], &[]));
    assert!(at_sender.unwrap_err().contains("uses a key and the receiver has none"));
    assert!(at_receiver.unwrap_err().contains("this receiver has none"));
    let own = authority.issue("brno-edge", 2, in_a_year());
    let shared = vec![Key::generate().unwrap()];
    let (_, at_receiver) = outcome(sender(&authority, &own), Admission { shared, ..Admission::default() });
    assert!(at_receiver.unwrap_err().contains("speaks TLS"));
    let clear = SenderHandshake::plain(&"brno-edge".parse().unwrap());
    let receiver = ReceiverHandshake::new(Arc::new(receiver(&authority, &[], &[])), true);
    let refused = play(clear, receiver, &mut unchanged).0;
    assert!(matches!(refused, Some(Err(SenderHandshakeError::Refused(_)))), "clear text from this machine");
}

#[test]
fn the_name_and_the_end_of_a_certificate_are_known() {
    let authority = Authority::new("one");
    let own = authority.issue("brno-edge", 2, in_a_year());
    let tls = SenderTls::new(pem(&authority, &own), None).unwrap();
    assert_eq!(tls.certificate.name.as_ref().map(SenderId::as_str), Some("brno-edge"));
    let year = i64::try_from(YEAR.as_secs()).unwrap();
    let since_1970 = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!((tls.certificate.not_after - year - i64::try_from(since_1970).unwrap()).abs() < 60);
}

#[test]
fn files_that_hold_something_else_are_told_apart() {
    let authority = Authority::new("one");
    let own = authority.issue("brno-edge", 2, in_a_year());
    let good = pem(&authority, &own);
    let refusal = |pem| SenderTls::new(pem, None).unwrap_err().to_string();
    assert_eq!(refusal(Pem { authority: b"", ..good }), "authority: no PEM block of that kind is in it");
    assert_eq!(refusal(Pem { certificate: b"x", ..good }), "certificate: no PEM block of that kind is in it");
    assert_eq!(refusal(Pem { key: good.certificate, ..good }), "key: no PEM block of that kind is in it");
    let other = authority.issue("brno-edge", 3, in_a_year());
    assert!(refusal(Pem { key: other.key.as_bytes(), ..good }).starts_with("key: "));
    let nameless = authority.issue("*.example.net", 4, in_a_year());
    assert_eq!(refusal(pem(&authority, &nameless)), TlsError::NoName.to_string());
    let list = ReceiverTls::new(good, &[list_file("no list".to_owned())], Vec::new()).unwrap_err();
    assert_eq!(list.to_string(), "revoked: no PEM block of that kind is in it");
}

#[test]
fn certificates_are_the_same_only_if_every_file_is() {
    let authority = Authority::new("one");
    let (own, renewed) =
        (authority.issue("brno-edge", 2, in_a_year()), authority.issue("brno-edge", 3, in_a_year()));
    let of = |own, name| SenderTls::new(pem(&authority, own), name).unwrap();
    assert_eq!(of(&own, None), of(&own, None));
    assert_ne!(of(&own, None), of(&renewed, None));
    assert_ne!(of(&own, None), of(&own, Some("elsewhere.example.net")));
}

#[test]
fn other_authorities_lists_or_names_ask_for_new_handshakes_and_another_own_certificate_does_not() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let revoked = authority.issue("brno-edge", 2, in_a_year());
    let trust = |authority: &Authority, revoked: &[&Issued], senders: &[&str]| {
        receiver(authority, revoked, senders).tls.unwrap().trust
    };
    let before = trust(&authority, &[], &[]);
    assert_eq!(trust(&authority, &[], &[]), before, "each has a certificate of its own");
    assert_ne!(trust(&other, &[], &[]), before);
    assert_ne!(trust(&authority, &[&revoked], &[]), before);
    assert_ne!(trust(&authority, &[], &["brno-edge"]), before);
}
