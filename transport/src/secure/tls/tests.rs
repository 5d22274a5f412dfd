use core::time::Duration;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use nf_transport_pki::{Authority, Issued};

use super::*;
use crate::secure::handshake::tests::{bindings, play};
use crate::secure::{
    AccessPolicy, Channel, Credential, HandshakeRejection, Key, ReceiverHandshake, SenderHandshake,
    SenderHandshakeError, Suite,
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

/// A sender with this certificate, which trusts `authority`.
fn sender(authority: &Authority, own: &Issued) -> SenderHandshake {
    SenderHandshake::tls(&SenderTls::new(pem(authority, own), None).unwrap(), RECEIVER).unwrap()
}

/// Policy of a receiver that trusts `authority`.
fn receiver(authority: &Authority, revoked: &[&Issued], senders: &[&str]) -> AccessPolicy {
    let own = authority.issue(RECEIVER, 1, in_a_year());
    let lists = if revoked.is_empty() { Vec::new() } else { vec![list_file(authority.revoke(revoked))] };
    let senders = senders.iter().map(|id| id.parse().unwrap()).collect();
    let tls = ReceiverTls::new(pem(authority, &own), &lists, senders).unwrap();
    AccessPolicy { tls: Some(tls), ..AccessPolicy::default() }
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
fn an_expired_list_still_rejects_its_certificates() {
    let authority = Authority::new("one");
    let [own, bad, good] = [(RECEIVER, 1), ("bad", 2), ("good", 3)]
        .map(|(name, serial)| authority.issue(name, serial, in_a_year()));
    let expired = authority.revoke_until(&[&bad], SystemTime::now() - YEAR);
    let tls = ReceiverTls::new(pem(&authority, &own), &[list_file(expired)], Vec::new()).unwrap();
    let policy = || AccessPolicy { tls: Some(tls.clone()), ..AccessPolicy::default() };
    assert!(outcome(sender(&authority, &bad), policy()).1.unwrap_err().contains("evoked"));
    assert_eq!(outcome(sender(&authority, &good), policy()).1.unwrap().as_str(), "good");
}

fn unchanged(_: usize, bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

fn lost() -> String {
    "incomplete handshake".to_owned()
}

/// Outcome of a handshake at either side.
fn outcome(
    sender: SenderHandshake,
    policy: AccessPolicy,
) -> (Result<Channel, String>, Result<SenderId, String>) {
    let receiver = ReceiverHandshake::new(Arc::new(policy), false);
    let (at_sender, at_receiver) = play(sender, receiver, &mut unchanged);
    let sender_result =
        at_sender.ok_or_else(lost).and_then(|outcome| outcome.map_err(|error| error.to_string()));
    let name = |outcome: Result<crate::secure::AcceptedSender, HandshakeRejection>| match outcome {
        Ok(accepted) => {
            assert!(matches!(accepted.credential, Credential::Certificate { .. }));
            Ok(accepted.sender)
        }
        Err(rejection) => Err(rejection.to_string()),
    };
    (sender_result, at_receiver.ok_or_else(lost).and_then(name))
}

#[test]
fn a_valid_certificate_is_accepted_by_its_name() {
    let authority = Authority::new("one");
    let own = authority.issue("brno-edge", 2, in_a_year());
    for senders in [&[][..], &["other", "brno-edge"]] {
        let (channel, name) = outcome(sender(&authority, &own), receiver(&authority, &[], senders));
        assert_eq!(channel.unwrap().cipher(), "tls");
        assert_eq!(name.unwrap().as_str(), "brno-edge");
    }
}

#[test]
fn each_connection_has_its_own_binding() {
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
fn a_channel_carries_any_length_detects_changes() {
    let authority = Authority::new("one");
    let own = authority.issue("brno-edge", 2, in_a_year());
    let connected = || {
        let receiver = ReceiverHandshake::new(Arc::new(receiver(&authority, &[], &[])), false);
        match play(sender(&authority, &own), receiver, &mut unchanged) {
            (Some(Ok(sender)), Some(Ok(accepted))) => (sender, accepted.channel),
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
fn invalid_certificates_are_rejected() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let foreign = other.issue("brno-edge", 2, in_a_year());
    let ended = authority.issue("brno-edge", 3, SystemTime::now() - Duration::from_secs(3600));
    let revoked = authority.issue("brno-edge", 4, in_a_year());
    for (own, words) in [(&foreign, "UnknownIssuer"), (&ended, "Expired"), (&revoked, "Revoked")] {
        let (_, error) = outcome(sender(&authority, own), receiver(&authority, &[&revoked], &[]));
        let error = error.unwrap_err();
        assert!(
            error.starts_with("TLS: ") && error.to_lowercase().contains(&words.to_lowercase()),
            "{error}"
        );
    }
}

#[test]
fn a_sender_rejects_a_wrong_receiver() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let own = authority.issue("brno-edge", 2, in_a_year());
    let (error, _) = outcome(sender(&other, &own), receiver(&authority, &[], &[]));
    assert!(error.unwrap_err().contains("UnknownIssuer"));
    let wrong_name = SenderTls::new(pem(&authority, &own), Some("elsewhere.example.net")).unwrap();
    let wrong_name = SenderHandshake::tls(&wrong_name, RECEIVER).unwrap();
    let (error, at_receiver) = outcome(wrong_name, receiver(&authority, &[], &[]));
    assert!(error.unwrap_err().contains("elsewhere.example.net"));
    assert!(at_receiver.is_err());
}

#[test]
fn a_disallowed_name_gets_a_refusal() {
    let authority = Authority::new("one");
    let own = authority.issue("brno-edge", 2, in_a_year());
    let mut last = Vec::new();
    let mut keep = |number: usize, bytes: Vec<u8>| {
        if number % 2 == 1 {
            last.clone_from(&bytes);
        }
        bytes
    };
    let policy = receiver(&authority, &[], &["praha-edge"]);
    let receiver = ReceiverHandshake::new(Arc::new(policy), false);
    let (at_sender, at_receiver) = play(sender(&authority, &own), receiver, &mut keep);
    let Some(Err(HandshakeRejection::NameNotAllowed(name))) = at_receiver else { panic!("{at_receiver:?}") };
    assert_eq!(name.as_str(), "brno-edge");
    let mut text = Vec::new();
    at_sender.unwrap().unwrap().open(&last, &mut |bytes| text.extend_from_slice(bytes)).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("'senders' in [tls] does not contain this name"), "{text}");
}

#[test]
fn a_reserved_name_needs_its_certificate() {
    let authority = Authority::new("one");
    let [shared, own, unknown] = [(), (), ()].map(|()| Key::generate().unwrap());
    let policy = || AccessPolicy {
        shared: vec![shared.clone()],
        suites: vec![Suite::Aes256Gcm],
        plaintext: true,
        ..receiver(&authority, &[], &["brno-edge"])
    };
    let keyed = |id: &str, key| SenderHandshake::keyed(&id.parse().unwrap(), key, Suite::Aes256Gcm);
    let reserved = "accepted with its certificate only";
    let (at_sender, at_receiver) = outcome(keyed("brno-edge", &shared), policy());
    assert!(at_receiver.unwrap_err().contains(reserved));
    let unauthenticated = outcome(keyed("brno-edge", &unknown), policy()).0;
    assert_eq!(
        at_sender.unwrap_err(),
        unauthenticated.unwrap_err(),
        "the sender cannot find out which ids exist"
    );
    let clear = |id: &str| SenderHandshake::plain(&id.parse().unwrap());
    assert!(outcome(clear("brno-edge"), policy()).1.unwrap_err().contains(reserved));
    let without_key =
        || AccessPolicy { senders: [("keyless".parse().unwrap(), Vec::new())].into(), ..policy() };
    for sender in [keyed("keyless", &shared), clear("keyless")] {
        assert!(outcome(sender, without_key()).1.unwrap_err().contains(reserved));
    }
    let certificate = authority.issue("brno-edge", 2, in_a_year());
    outcome(sender(&authority, &certificate), policy()).1.unwrap();
    let accepts = |sender, policy| {
        let receiver = ReceiverHandshake::new(Arc::new(policy), false);
        matches!(play(sender, receiver, &mut unchanged).1, Some(Ok(_)))
    };
    assert!(accepts(keyed("other", &shared), policy()) && accepts(clear("other"), policy()));
    let senders = [("brno-edge".parse().unwrap(), vec![own.clone()])].into();
    assert!(accepts(keyed("brno-edge", &own), AccessPolicy { senders, ..policy() }));
}

#[test]
fn a_newly_reserved_name_ends_other_sessions() {
    let authority = Authority::new("one");
    let (shared, id) = (Key::generate().unwrap(), "brno-edge".parse().unwrap());
    let credential = Credential::Key { id: shared.id(), suite: Suite::Aes256Gcm };
    let policy = |names: &[&str]| AccessPolicy {
        shared: vec![shared.clone()],
        suites: vec![Suite::Aes256Gcm],
        plaintext: true,
        ..receiver(&authority, &[], names)
    };
    for credential in [credential, Credential::ClearText { is_local: true }] {
        assert!(policy(&["praha-edge"]).still_accepts(&id, &credential));
        assert!(!policy(&["brno-edge"]).still_accepts(&id, &credential));
    }
}

#[test]
fn keys_and_certificates_do_not_match() {
    let authority = Authority::new("one");
    let keyed =
        SenderHandshake::keyed(&"brno-edge".parse().unwrap(), &Key::generate().unwrap(), Suite::Aes256Gcm);
    let (at_sender, at_receiver) = outcome(keyed, receiver(&authority, &[], &[]));
    assert!(at_sender.unwrap_err().contains("uses a key and the receiver has none"));
    assert!(at_receiver.unwrap_err().contains("this receiver has none"));
    let own = authority.issue("brno-edge", 2, in_a_year());
    let shared = vec![Key::generate().unwrap()];
    let (_, at_receiver) =
        outcome(sender(&authority, &own), AccessPolicy { shared, ..AccessPolicy::default() });
    assert!(at_receiver.unwrap_err().contains("uses TLS"));
    let clear = SenderHandshake::plain(&"brno-edge".parse().unwrap());
    let receiver = ReceiverHandshake::new(Arc::new(receiver(&authority, &[], &[])), true);
    let rejected = play(clear, receiver, &mut unchanged).0;
    assert!(matches!(rejected, Some(Err(SenderHandshakeError::Rejected(_)))), "clear text from this host");
}

#[test]
fn name_and_expiry_of_a_certificate_are_read() {
    let authority = Authority::new("one");
    let own = authority.issue("brno-edge", 2, in_a_year());
    let tls = SenderTls::new(pem(&authority, &own), None).unwrap();
    assert_eq!(tls.certificate.name.as_ref().map(SenderId::as_str), Some("brno-edge"));
    let year = i64::try_from(YEAR.as_secs()).unwrap();
    let since_1970 = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!((tls.certificate.not_after - year - i64::try_from(since_1970).unwrap()).abs() < 60);
}

#[test]
fn wrong_pem_files_are_reported_by_kind() {
    let authority = Authority::new("one");
    let own = authority.issue("brno-edge", 2, in_a_year());
    let good = pem(&authority, &own);
    let error = |pem| SenderTls::new(pem, None).unwrap_err().to_string();
    assert_eq!(error(Pem { authority: b"", ..good }), "authority: it contains no PEM block of this kind");
    assert_eq!(
        error(Pem { certificate: b"x", ..good }),
        "certificate: it contains no PEM block of this kind"
    );
    assert_eq!(error(Pem { key: good.certificate, ..good }), "key: it contains no PEM block of this kind");
    let other = authority.issue("brno-edge", 3, in_a_year());
    assert!(error(Pem { key: other.key.as_bytes(), ..good }).starts_with("key: "));
    let nameless = authority.issue("*.example.net", 4, in_a_year());
    assert_eq!(error(pem(&authority, &nameless)), TlsError::NoName.to_string());
    let list = ReceiverTls::new(good, &[list_file("no list".to_owned())], Vec::new()).unwrap_err();
    assert_eq!(list.to_string(), "revoked: it contains no PEM block of this kind");
}

#[test]
fn configurations_are_equal_if_all_files_are() {
    let authority = Authority::new("one");
    let (own, renewed) =
        (authority.issue("brno-edge", 2, in_a_year()), authority.issue("brno-edge", 3, in_a_year()));
    let of = |own, name| SenderTls::new(pem(&authority, own), name).unwrap();
    assert_eq!(of(&own, None), of(&own, None));
    assert_ne!(of(&own, None), of(&renewed, None));
    assert_ne!(of(&own, None), of(&own, Some("elsewhere.example.net")));
}

#[test]
fn only_trust_changes_need_new_handshakes() {
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
