//! Parsers of message payloads.

use bytes::{Buf, Bytes};

use crate::framing::message::NO_STREAM;
use crate::framing::message_type::MessageType;
use crate::framing::{
    FramingError, Heartbeat, Hello, Message, Refusal, RefusalCode, Resend, StreamProof, VERSION, Welcome,
};
use crate::sequence::{Gap, GapReason, Position, RunId, StreamId};

/// Length in bytes of the payload of a HELLO of this version.
const HELLO_LEN: usize = 158;

/// Parses the payload of a message. The caller has checked that the length is allowed for `message_type`.
pub(super) fn parse(message_type: MessageType, payload: Bytes) -> Result<Message, FramingError> {
    match message_type {
        MessageType::Hello => hello(&payload).map(Message::Hello),
        MessageType::Welcome => welcome(&payload).map(Message::Welcome),
        MessageType::Data => Ok(Message::Data(payload)),
        MessageType::Ack => Ok(Message::Ack(Position(payload.as_ref().try_get_u64()?))),
        MessageType::Gap => gap(&payload).map(Message::Gap),
        MessageType::Ping => Ok(Message::Ping),
        MessageType::Refuse => refusal(&payload).map(Message::Refuse),
        MessageType::Goodbye => Ok(Message::Goodbye),
        MessageType::Received => Ok(Message::Received(Position(payload.as_ref().try_get_u64()?))),
        MessageType::Resend => resend(&payload).map(Message::Resend),
    }
}

fn hello(payload: &[u8]) -> Result<Hello, FramingError> {
    let mut rest = payload;
    let version = rest.try_get_u16()?;
    if version != VERSION {
        return Err(FramingError::Version(version));
    }
    if payload.len() != HELLO_LEN {
        return Err(MessageType::Hello.wrong_length(payload.len(), &(HELLO_LEN..=HELLO_LEN)));
    }
    let stream = StreamId(bytes(&mut rest)?);
    let first = Position(rest.try_get_u64()?);
    let millis = rest.try_get_u32()?;
    let heartbeat = Heartbeat::from_millis(millis).ok_or(FramingError::Heartbeat(millis))?;
    let run = RunId(bytes(&mut rest)?);
    let replaces = Some(StreamId(bytes(&mut rest)?)).filter(|stream| *stream != NO_STREAM);
    let proof = StreamProof { public_key: bytes(&mut rest)?, signature: bytes(&mut rest)? };
    Ok(Hello { stream, first, heartbeat, run, replaces, proof })
}

fn bytes<const LENGTH: usize>(rest: &mut &[u8]) -> Result<[u8; LENGTH], FramingError> {
    let mut bytes = [0; LENGTH];
    rest.try_copy_to_slice(&mut bytes)?;
    Ok(bytes)
}

fn welcome(mut rest: &[u8]) -> Result<Welcome, FramingError> {
    let (resume, window) = (Position(rest.try_get_u64()?), rest.try_get_u32()?);
    let (received, run) = (Position(rest.try_get_u64()?), RunId(bytes(&mut rest)?));
    if window == 0 {
        return Err(FramingError::Window);
    }
    if received < resume {
        return Err(FramingError::Received { resume, received });
    }
    Ok(Welcome { resume, window, received, run })
}

fn resend(mut rest: &[u8]) -> Result<Resend, FramingError> {
    let resend = Resend { first: Position(rest.try_get_u64()?), bytes: rest.try_get_u32()? };
    if resend.bytes == 0 { Err(FramingError::Resend) } else { Ok(resend) }
}

fn gap(mut rest: &[u8]) -> Result<Gap, FramingError> {
    let (first, end) = (Position(rest.try_get_u64()?), Position(rest.try_get_u64()?));
    let (reason, count) = (rest.try_get_u8()?, rest.try_get_u64()?);
    if first >= end {
        return Err(FramingError::GapRange { first, end });
    }
    let reason = GapReason::from_code(reason).ok_or(FramingError::GapReason(reason))?;
    let gap = Gap { first, end, reason };
    let expected = gap.datagrams();
    if count == expected { Ok(gap) } else { Err(FramingError::GapCount { count, expected }) }
}

fn refusal(mut rest: &[u8]) -> Result<Refusal, FramingError> {
    let code = RefusalCode::from_code(rest.try_get_u8()?);
    let text = core::str::from_utf8(rest).map_err(|_| FramingError::RefusalText)?;
    let refusal = Refusal::new(code, text);
    if refusal.text() == text { Ok(refusal) } else { Err(FramingError::RefusalText) }
}
