//! The inputs in `tests/field-cases`.

use std::path::Path;

use serde_json::Value;

/// Returns the payloads of a case in order.
pub fn payloads(case: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../field-cases").join(format!("{case}.json"));
    let case: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let datagrams = case["datagrams"].as_array().unwrap();
    datagrams.iter().map(|datagram| hex(datagram[2].as_str().unwrap())).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}
