//! Fuzzing entry for the decoder.

use bytes::BytesMut;

use crate::framing::{Decoder, FramingError};

/// Decodes arbitrary `bytes` in pieces. The bytes themselves choose the lengths of the pieces.
///
/// # Panics
///
/// If a decoded message does not encode to the bytes that it was decoded from.
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
