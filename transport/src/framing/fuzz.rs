//! The entry of the fuzzers into this folder.

use bytes::BytesMut;

use crate::framing::{Decoder, FramingError};

/// Decodes `bytes`, whatever they are, in pieces whose lengths the bytes themselves choose.
///
/// # Panics
///
/// If a message that was understood does not have the bytes that it was read from.
pub fn fuzz_decoder(bytes: &[u8]) {
    let mut decoder = Decoder::default();
    let mut understood = BytesMut::new();
    let mut rest = bytes;
    while let Some(piece) = rest.first().map(|length| usize::from(*length).clamp(1, rest.len())) {
        let (now, later) = rest.split_at(piece);
        decoder.extend(now);
        rest = later;
        if take_all(&mut decoder, &mut understood).is_err() {
            break;
        }
    }
    assert!(bytes.starts_with(&understood), "a message does not have the bytes that it was read from");
}

fn take_all(decoder: &mut Decoder, understood: &mut BytesMut) -> Result<(), FramingError> {
    while let Some(message) = decoder.next_message()? {
        if let Some(batch) = message.encode(understood) {
            understood.extend_from_slice(&batch);
        }
    }
    Ok(())
}
