//! The cause of a failed name resolution, in words that do not depend on the C library.

use std::io;

/// Names the cause of a failed name resolution. The resolver has no error codes here, only the texts of
/// `gai_strerror`.
pub fn resolve_cause(error: &io::Error) -> String {
    let text = error.to_string();
    let has = |part: &str| text.contains(part);
    if has("Name or service not known") || has("No address associated") || has("Name does not resolve") {
        "no such host".to_owned()
    } else if has("Temporary failure") || has("Try again") {
        "name server did not answer".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_named_without_the_resolvers_words() {
        let cause =
            |text| resolve_cause(&io::Error::other(format!("failed to lookup address information: {text}")));
        assert_eq!(cause("Name or service not known"), "no such host");
        assert_eq!(cause("Temporary failure in name resolution"), "name server did not answer");
    }
}
