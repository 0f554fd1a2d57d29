//! `hearth --help`: the list of commands by group.
//!
//! clap has no groups of subcommands. The top-level help therefore uses a template whose command
//! list is generated here from the names and descriptions that clap has, so that the list cannot
//! differ from the commands. A command that is in no group is listed under "Other".

use clap::Command;
use std::fmt::Write;

/// The groups of commands, in the order of the list.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "Play",
        &["play", "collect", "score", "branch", "rescue", "merge"],
    ),
    (
        "Train",
        &["quickstart", "loop", "submit", "train", "selftest"],
    ),
    (
        "Measure",
        &[
            "eval", "sweep", "rank", "reading", "compare", "report", "verify", "audit",
        ],
    ),
    ("Data", &["scenarios", "store", "export", "import"]),
    (
        "Tools",
        &["model", "world", "doctor", "bench", "completions"],
    ),
];

/// Returns the top-level command with its help in groups.
pub(crate) fn with_groups(command: Command) -> Command {
    let header = *command.get_styles().get_header();
    let usage = *command.get_styles().get_usage();
    let template = format!(
        "{{before-help}}{{about-with-newline}}\n{usage}Usage:{usage:#} {{usage}}\n\n{}\
         {header}Options:{header:#}\n{{options}}{{after-help}}",
        list(&command)
    );
    command
        .help_template(template)
        .after_help("Run `hearth help COMMAND` for the flags of a command.")
}

/// Returns the list of commands, group by group.
fn list(command: &Command) -> String {
    let header = *command.get_styles().get_header();
    let literal = *command.get_styles().get_literal();
    let visible: Vec<&Command> = command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set())
        .collect();
    let width = visible
        .iter()
        .map(|subcommand| subcommand.get_name().len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for title in GROUPS.map(|(title, _)| title).into_iter().chain(["Other"]) {
        let members: Vec<&&Command> = match GROUPS.iter().find(|(name, _)| *name == title) {
            Some((_, names)) => names
                .iter()
                .filter_map(|name| visible.iter().find(|command| command.get_name() == *name))
                .collect(),
            None => visible
                .iter()
                .filter(|command| groups_of(command.get_name()).is_empty())
                .collect(),
        };
        if members.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{header}{title}:{header:#}");
        for member in members {
            let name = member.get_name();
            let about = member.get_about().map(ToString::to_string);
            let _ = writeln!(
                text,
                "  {literal}{name}{literal:#}{:pad$}  {}",
                "",
                about.unwrap_or_default(),
                pad = width - name.len()
            );
        }
        text.push('\n');
    }
    text
}

/// Returns the titles of the groups that contain a command.
fn groups_of(command: &str) -> Vec<&'static str> {
    GROUPS
        .iter()
        .filter(|(_, names)| names.contains(&command))
        .map(|(title, _)| *title)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Flags that several commands share and that belong to no group of flags.
    const GENERAL: [&str; 5] = ["seed", "out", "json", "repetitions", "checkpoint"];

    fn assert_general(command: &Command, path: &str) {
        for argument in command.get_arguments() {
            if GENERAL.contains(&argument.get_id().as_str()) {
                assert_eq!(
                    argument.get_help_heading(),
                    None,
                    "{path}: --{}",
                    argument.get_id()
                );
            }
        }
        for subcommand in command.get_subcommands() {
            assert_general(subcommand, &format!("{path} {}", subcommand.get_name()));
        }
    }

    #[test]
    fn general_flags_have_no_heading() {
        assert_general(&crate::Hearth::command(), "hearth");
    }

    #[test]
    fn every_visible_command_is_in_exactly_one_group() {
        let command = crate::Hearth::command();
        for subcommand in command.get_subcommands() {
            if !subcommand.is_hide_set() {
                let name = subcommand.get_name();
                assert_eq!(groups_of(name).len(), 1, "{name}: {:?}", groups_of(name));
            }
        }
        for name in GROUPS.iter().flat_map(|(_, names)| *names) {
            assert!(command.find_subcommand(name).is_some(), "{name}");
        }
    }

    #[test]
    fn the_help_lists_every_group_on_lines_of_80_columns() {
        let text = with_groups(crate::Hearth::command())
            .render_long_help()
            .to_string();
        for (title, names) in GROUPS {
            assert!(
                text.contains(&format!("{title}:\n  {}", names[0])),
                "{text}"
            );
        }
        assert!(!text.contains("Other:"), "{text}");
        let commands = text.split("Play:").nth(1).unwrap();
        for line in commands.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn old_names_of_commands_and_flags_still_parse() {
        for line in [
            "hearth lab --policy a --suite b --out c --choose-by logprob",
            "hearth eval --policy a --suite b --out c --choose-by oracle",
            "hearth collect --policy expert --suite b --out c --slips 0.1",
            "hearth collect --policy expert --suite b --out c --student d",
            "hearth bench mind",
            "hearth bench train --lessons sft",
        ] {
            let parsed = crate::Hearth::command().try_get_matches_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}
