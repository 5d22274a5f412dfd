//! The program nf-sender.

use std::process::ExitCode;

fn main() -> ExitCode {
    nf_transport::sender::main()
}
