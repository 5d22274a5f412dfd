//! The program nf-receiver.

use std::process::ExitCode;

fn main() -> ExitCode {
    nf_transport::receiver::main()
}
