//! `imprint`: the services, their client, and everything in one for a laptop.

mod analyst;
mod arguments;
mod client;
mod commands;
mod database;
mod export;
mod failure;
mod place;
mod progress;
mod readings;
mod reference_log;
mod system;
mod table;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::Arguments;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let telemetry = arguments.telemetry.clone();
    match commands::run(arguments).await {
        Ok(code) => code,
        Err(failure) => {
            telemetry.last_words("imprint", &failure);
            failure.exit_code()
        }
    }
}
