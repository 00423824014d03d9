//! The command line: what may be typed, and the help that teaches it.

use clap::{Parser, Subcommand, ValueEnum};

use crate::commands::{
    analyze, bench, cancel, db, demo, doctor, export, figure, import, list, logs, priority,
    reproduce, results, retry, serve, sql, status, submit, take, token, up, verify, watch,
};
use crate::place::Place;

/// A laboratory for how language models acquire and forget facts while they are pretrained.
///
/// Give it checkpoints, a corpus and a set of facts. It goes on with pretraining while it injects
/// the facts under your scenarios, reads the log-probability of every probe after every step, keeps
/// every reading in Postgres, and answers in tables, figures and SQL.
#[derive(Debug, Parser)]
#[command(name = "imprint", version, max_term_width = 100, after_long_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) telemetry: imprint_telemetry::Options,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
A first walk:
  imprint demo                     tiny models learn and forget facts, in a few minutes
  imprint up                       start everything on this machine, and stay
  imprint submit mine.toml --wait  in another terminal: run your own experiment
  imprint results mine             what came out, with its controls
  imprint sql                      every reading, in psql

Exit codes:
  0    done
  1    a run failed or was cancelled, a verification is not clean, or something broke
  2    wrong arguments or bad input: the line says which file, field or name
  3    a service or the database does not answer: the line says where and how to start it
  130  interrupted, by Ctrl-C";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(up::Arguments),
    #[command(subcommand)]
    Serve(serve::Role),
    Submit(submit::Arguments),
    List(list::Arguments),
    Status(status::Arguments),
    Watch(watch::Arguments),
    Logs(logs::Arguments),
    Cancel(cancel::Arguments),
    Retry(retry::Arguments),
    Priority(priority::Arguments),
    Results(results::Arguments),
    Analyze(analyze::Arguments),
    Figure(figure::Arguments),
    Take(take::Arguments),
    Export(export::Arguments),
    Import(import::Arguments),
    Reproduce(reproduce::Arguments),
    Verify(verify::Arguments),
    Sql(sql::Arguments),
    #[command(subcommand)]
    Db(db::Command),
    #[command(subcommand)]
    Token(token::Action),
    Doctor(doctor::Arguments),
    Demo(demo::Arguments),
    #[command(subcommand)]
    Bench(bench::Command),
}

/// For a person or for a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    #[default]
    Table,
    Json,
}

#[cfg(test)]
mod tests;
