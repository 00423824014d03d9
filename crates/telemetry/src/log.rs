//! The log: lines on standard error, for people or for programs.

use std::fmt::Display;
use std::io::{self, IsTerminal as _};
use std::num::NonZeroU32;

use clap::ValueEnum;
use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::trace::Export;
use crate::{Error, Sampling};

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line: `timestamp`, `level`, `target`, `message`, the event's own fields,
    /// and `spans` with theirs (`run_id`, `attempt`), outermost first.
    Json,
}

/// Options of every command of every program.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "What it tells about itself")]
pub struct Options {
    /// What is logged to stderr, such as `debug` or `imprint_orchestrator=debug`.
    #[arg(long, global = true, value_name = "FILTER", env = "RUST_LOG")]
    log: Option<String>,

    /// Log lines for people, or one JSON object a line for programs.
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        env = "IMPRINT_LOG_FORMAT"
    )]
    log_format: LogFormat,

    /// Where traces of steps go, such as http://127.0.0.1:4317 (OTLP over gRPC); where absent, there
    /// are none.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "OTEL_EXPORTER_OTLP_ENDPOINT"
    )]
    otlp_endpoint: Option<String>,

    /// Of a run's steps, every N-th is traced.
    #[arg(
        long,
        global = true,
        value_name = "N",
        default_value = "100",
        env = "IMPRINT_TRACE_EVERY"
    )]
    trace_every: NonZeroU32,
}

/// A process that tells about itself; dropping it sends what is left of its traces, for two seconds
/// at most.
#[derive(Debug)]
#[must_use = "traces are sent while it lives"]
pub struct Telling {
    /// What is left is sent when it is dropped.
    _export: Option<Export>,
    sampling: Sampling,
}

impl Telling {
    /// Which steps are traced.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }
}

impl Options {
    /// Starts the log of this process, and its traces where they are asked for.
    ///
    /// The log goes to stderr, since stdout is the answer. `service` is the process's name in
    /// traces, and `default` what is logged where the user said nothing.
    ///
    /// # Errors
    /// When the filter or the endpoint cannot be read.
    ///
    /// # Panics
    /// When called a second time.
    pub fn start(&self, service: &'static str, default: &str) -> Result<Telling, Error> {
        let filter = self.log.as_deref().unwrap_or(default);
        let filter = EnvFilter::try_new(filter).map_err(|e| Error::Filter {
            filter: filter.to_owned(),
            problem: e.to_string(),
        })?;
        let endpoint = self.otlp_endpoint.as_deref().filter(|url| !url.is_empty());
        let export = endpoint
            .map(|url| Export::start(service, url))
            .transpose()?;
        let log = lines(self.log_format, io::stderr, io::stderr().is_terminal());
        tracing_subscriber::registry()
            .with(log.with_filter(filter))
            .with(export.as_ref().map(Export::layer))
            .init();
        let sampling = match export {
            Some(_) => Sampling::every(self.trace_every),
            None => Sampling::default(),
        };
        Ok(Telling {
            _export: export,
            sampling,
        })
    }

    /// Says on stderr why a program ends: the last line of its log.
    pub fn last_words(&self, program: &str, why: impl Display) {
        match self.log_format {
            LogFormat::Json if tracing::dispatcher::has_been_set() => {
                tracing::error!("{program}: {why}");
            }
            _ => eprintln!("{program}: {why}"),
        }
    }

    /// What a program that this one starts needs in its environment to tell the same about itself.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let format = self.log_format.to_possible_value();
        let format = format.map(|v| ("IMPRINT_LOG_FORMAT", v.get_name().to_owned()));
        let filter = self.log.clone().map(|filter| ("RUST_LOG", filter));
        let endpoint = self.otlp_endpoint.clone();
        let endpoint = endpoint.map(|url| ("OTEL_EXPORTER_OTLP_ENDPOINT", url));
        let every = ("IMPRINT_TRACE_EVERY", self.trace_every.to_string());
        let said = format.into_iter().chain(filter).chain(endpoint);
        said.chain([every]).collect()
    }
}

fn lines<S, W>(format: LogFormat, to: W, colours: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(to);
    match format {
        LogFormat::Text => layer.with_ansi(colours).with_target(false).boxed(),
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .boxed(),
    }
}

/// An error with everything that caused it, each said once.
pub fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        // Some libraries repeat their source in their own line.
        if !line.contains(&said) {
            line = format!("{line}: {said}");
        }
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests;
