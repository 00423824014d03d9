use clap::CommandFactory as _;
use expect_test::{Expect, expect};

use super::*;

#[test]
fn the_command_line_is_well_formed() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_teaches_with_an_example() {
    for command in Arguments::command().get_subcommands() {
        let help = command
            .get_long_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(
            help.contains("Example: `imprint "),
            "{}: {help}",
            command.get_name()
        );
    }
}

#[track_caller]
fn long_help(command: &str, want: &Expect) {
    let mut arguments = Arguments::command().term_width(100);
    arguments.build();
    let command = arguments.find_subcommand_mut(command).expect("a command");
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    // The options of every command come after a command's own.
    let own: Vec<&str> = lines
        .into_iter()
        .take_while(|line| *line != "Where things are:")
        .collect();
    want.assert_eq(&(own.join("\n") + "\n"));
}

#[test]
fn help_of_submit() {
    long_help(
        "submit",
        &expect![[r#"
        Submit an experiment file: its matrix becomes runs, and those that are new are queued.

        The file is TOML; `experiments/minimal.toml` is the shortest one and docs/experiments.md explains
        every key. Everything is checked before anything is stored: the files, the tokenizer, the corpus'
        length, and that every injection fits its batch. A corpus of text is tokenised now, unless it has
        been before. What is allowed but looks wrong is warned of on standard error. Submitting the same
        file twice changes nothing; adding a seed queues only what is missing, and other `resources` are
        taken over by runs that wait to be started.

        Example: `imprint submit mine.toml --dry-run`, then `imprint submit mine.toml --wait`

        Usage: imprint submit [OPTIONS] <FILE>

        Arguments:
          <FILE>
                  The experiment file; relative paths in it are taken from its directory

        Options:
              --dry-run
                  Check, expand and estimate only; nothing is stored.

                  Says of the runs that are new how many tokens, hours and bytes they take, and how much
                  memory.

              --tokens-per-second <N>
                  For the hours: tokens that one trainer trains on in a second.

                  Where absent, what was measured on complete runs of the same model on the same device.

              --wait
                  Show the runs' progress until all have ended; exits with 1 when one failed

              --output <OUTPUT>
                  A table for people, or JSON for programs

                  [default: table]
                  [possible values: table, json]

          -h, --help
                  Print help (see a summary with '-h')

        "#]],
    );
}

#[test]
fn help_of_results() {
    long_help(
        "results",
        &expect![[r#"
            Show how facts were acquired and forgotten: effectivity, decay and threshold, with controls.

            A row for every cell of the matrix, arm and depth of probe: runs that differ in seed and repeat
            only are averaged, and `runs` says how many they are. Every other setting in which runs differ has
            a column of its own. `own` is what a fact's probes gained by an
            exposure, `null` what held-out facts gained over the same steps, `swap` what the same target
            gained after another fact's subject. `effect` is own − null, `bound` is own − swap. The decay is
            a line of retainability on log10 t: `a` is what is lost in each tenfold of time.
            CSV and JSON have every column, the published variants of the formulas among them.

            Example: `imprint results mine --output csv > mine.csv`

            Usage: imprint results [OPTIONS] <NAME>

            Arguments:
              <NAME>
                      An experiment, or one of its runs (`experiment/cell`)

            Options:
                  --output <OUTPUT>
                      A table for people, JSON or CSV for programs

                      [default: table]
                      [possible values: table, json, csv]

                  --tests
                      Show signed-rank tests over facts instead, a row for every run and arm.

                      jump: the first exposure raises log-probability; first: it does so more than the second;
                      binding: the fact gains more than its target after another fact's subject; decay: less is
                      left late than early. One-sided p-values, on null-subtracted means over memorization and
                      semantic generalization.

                  --by-run
                      Average nothing: a row for every run, arm and depth

                  --span <SPAN>
                      The tokens of a probe over which its log-probability is taken: all target tokens (the
                      paper's headline), the first one, or the full text

                      [default: target]

                  --preset <PRESET>
                      Whose reading of the formulas: the `paper`'s text or its released `code`

                      [default: paper]

                  --window <STEPS>
                      Look for an exposure's peak this many steps after it, at most [default: the preset's 50]

                  --late-from <STEPS>
                      Call retainability late from this many steps after the peak on [default: half of the steps
                      that every probe has]

              -h, --help
                      Print help (see a summary with '-h')

        "#]],
    );
}

#[test]
fn help_names_the_exit_codes() {
    let help = Arguments::command().render_long_help().to_string();
    for code in [
        "\n  0    done",
        "\n  1    a run failed",
        "\n  2    wrong",
        "\n  3    a service",
        "\n  130  interrupted",
    ] {
        assert!(help.contains(code), "{help}");
    }
}
