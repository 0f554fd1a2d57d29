//! The help of every command, and the completion scripts.

use crate::binary::{folder, hearth};
use std::path::Path;

/// One snapshot for each group of commands, with the help of every command and subcommand in it.
///
/// If a help text is changed on purpose, write the snapshots anew with `INSTA_UPDATE=always`.
#[test]
fn the_help_of_each_group_is_as_recorded() {
    let folder = folder();
    let overview = help_of(folder.path(), &[]);
    let groups = groups(&overview);
    let names: Vec<&str> = groups.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Play", "Train", "Measure", "Data", "Tools"]);
    let mut pages = 1;
    let mut snapshots = vec![("overview".to_string(), overview.clone())];
    for (group, commands) in &groups {
        let mut text = String::new();
        for command in commands {
            pages += add_pages(folder.path(), &[command], &mut text);
        }
        snapshots.push((group.to_lowercase(), text));
    }
    assert!(pages >= 25, "{pages} pages of help");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, text) in &snapshots {
            insta::assert_snapshot!(format!("help-{name}"), text);
        }
    });
}

/// A general flag is listed under "Options", and not under the heading of a group of flags that
/// happens to come before it.
#[test]
fn general_flags_have_no_heading_of_their_own() {
    let folder = folder();
    for (_, commands) in groups(&help_of(folder.path(), &[])) {
        for command in commands {
            let help = help_of(folder.path(), &[&command]);
            let mut heading = "";
            for line in help.lines() {
                if line.ends_with(':') && !line.starts_with(' ') {
                    heading = line;
                }
                let flag = line.trim_start();
                for general in ["--seed ", "--out ", "--json"] {
                    assert!(
                        !flag.starts_with(general) || heading == "Options:",
                        "{command}: {flag} is under {heading}"
                    );
                }
            }
        }
    }
}

fn help_of(folder: &Path, path: &[&str]) -> String {
    hearth(folder, &[path, &["--help"]].concat()).done()
}

/// The groups of the overview, each with its commands.
fn groups(overview: &str) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for line in overview.lines() {
        if line.starts_with("Options:") {
            break;
        }
        if let Some(name) = line.strip_suffix(':') {
            groups.push((name.into(), Vec::new()));
        } else if let (Some((_, commands)), Some(command)) = (groups.last_mut(), named(line)) {
            commands.push(command.into());
        }
    }
    groups
}

/// The command that a line of a list of commands begins with.
fn named(line: &str) -> Option<&str> {
    let name = line.strip_prefix("  ")?;
    let name = name.split(' ').next()?;
    (!name.is_empty() && !name.starts_with('-')).then_some(name)
}

/// Adds the help of a command and of its subcommands. Returns how many pages were added.
fn add_pages(folder: &Path, path: &[&str], text: &mut String) -> usize {
    let help = help_of(folder, path);
    *text += &format!("## hearth {}\n\n{help}\n", path.join(" "));
    let subcommands = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(named)
        .filter(|name| *name != "help");
    1 + subcommands
        .map(|name| add_pages(folder, &[path, &[name]].concat(), text))
        .sum::<usize>()
}

#[test]
fn completions_are_printed_for_a_shell() {
    let folder = folder();
    let script = hearth(folder.path(), &["completions", "bash"]).done();
    assert!(
        script.contains("complete -F _hearth") && script.contains("quickstart"),
        "{script}"
    );
    assert_eq!(hearth(folder.path(), &["completions", "teletype"]).code, 2);
}
