//! The help of every command, and the completion scripts.

use crate::binary::{folder, hearth};

/// The help of every subcommand that the help names, however deep.
#[test]
fn the_help_says_what_it_said() {
    let folder = folder();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = hearth(folder.path(), &arguments).done();
        let commands = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| !line.is_empty());
        for line in commands {
            if let Some(name) = line
                .strip_prefix("  ")
                .filter(|name| !name.starts_with([' ', '-']))
            {
                let name = name.split(' ').next().unwrap();
                if name != "help" {
                    open.push(path.iter().cloned().chain([name.to_string()]).collect());
                }
            }
        }
        let name = std::iter::once("help")
            .chain(path.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join("-");
        insta::assert_snapshot!(name, help);
        seen += 1;
    }
    assert!(seen >= 13, "{seen} pages of help");
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
