//! A PDDL problem as a list of declarations and facts that can be changed and written again.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The predicates that a room consists of. Each has two arguments.
const PAIRS: [&str; 7] = [
    "cancontain",
    "inreceptacle",
    "inreceptacleobject",
    "objectatlocation",
    "objecttype",
    "receptacleatlocation",
    "receptacletype",
];

/// A true fact: a predicate with the names of its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedFact {
    pub(super) predicate: String,
    pub(super) args: Vec<String>,
}

impl NamedFact {
    pub(super) fn new(predicate: &str, args: &[&str]) -> Self {
        Self {
            predicate: predicate.into(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
        }
    }
}

/// A problem. All words are lower-case, as the planner reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProblemFacts {
    name: String,
    domain: String,
    /// Name and type of every object, in the order of the file.
    pub(super) objects: Vec<(String, String)>,
    /// The initial facts, in the order of the file.
    pub(super) facts: Vec<NamedFact>,
    /// The text of the goal's condition.
    pub(super) goal: String,
}

impl ProblemFacts {
    /// Parses a problem text.
    ///
    /// # Errors
    /// A text with the cause, if this is not a problem whose initial facts are all plain facts.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text: String = text.to_ascii_lowercase();
        let text = without_comments(&text);
        let root = lists(&text)?;
        let [root] = root.as_slice() else {
            return Err("it is not one list in parentheses".into());
        };
        let sections = root
            .trim_start()
            .strip_prefix("define")
            .ok_or("it does not begin with (define")?;
        let mut problem = Self {
            name: String::new(),
            domain: String::new(),
            objects: Vec::new(),
            facts: Vec::new(),
            goal: String::new(),
        };
        for section in lists(sections)? {
            let section = section.trim();
            let (head, rest) = section
                .split_once(|c: char| c.is_ascii_whitespace() || c == '(')
                .unwrap_or((section, ""));
            match head {
                "problem" => problem.name = rest.trim().into(),
                ":domain" => problem.domain = rest.trim().into(),
                ":objects" => problem.objects = declarations(rest)?,
                ":init" => problem.facts = facts(&section[head.len()..])?,
                ":goal" => problem.goal = section[head.len()..].trim().into(),
                other => return Err(format!("the section {other:?} is not known")),
            }
        }
        if problem.facts.is_empty() || problem.goal.is_empty() {
            return Err("it has no (:init …) or no (:goal …)".into());
        }
        Ok(problem)
    }

    /// Returns the text of the problem under another name.
    pub(super) fn text(&self, suffix: &str) -> String {
        let mut text = format!(
            "(define (problem {}{suffix})\n(:domain {})\n(:objects\n",
            self.name, self.domain
        );
        // Writing to a String cannot fail.
        for (name, kind) in &self.objects {
            let _ = writeln!(text, "    {name} - {kind}");
        }
        text.push_str(")\n(:init\n");
        for fact in &self.facts {
            let _ = writeln!(text, "    ({} {})", fact.predicate, fact.args.join(" "));
        }
        let _ = write!(text, ")\n(:goal\n    {}\n)\n)\n", self.goal);
        text
    }

    /// Returns the arguments of every fact of a predicate.
    pub(super) fn of(&self, predicate: &str) -> impl Iterator<Item = &[String]> {
        self.facts
            .iter()
            .filter(move |fact| fact.predicate == predicate)
            .map(|fact| fact.args.as_slice())
    }

    /// Returns true if the fact with this predicate and these arguments holds.
    pub(super) fn holds(&self, predicate: &str, args: &[&str]) -> bool {
        self.of(predicate).any(|fact| fact == args)
    }

    /// Removes an object with all its facts.
    pub(super) fn remove(&mut self, name: &str) {
        self.objects.retain(|(object, _)| object != name);
        self.facts
            .retain(|fact| fact.args.iter().all(|arg| arg != name));
    }

    /// Adds an object that has the type of another one, and its facts except those of some
    /// predicates.
    pub(super) fn copy(&mut self, from: &str, name: &str, except: &[&str]) {
        let kind = self.objects.iter().find(|(object, _)| object == from);
        if let Some((_, kind)) = kind.cloned() {
            self.objects.push((name.into(), kind));
        }
        let mut copies: Vec<NamedFact> = self
            .facts
            .iter()
            .filter(|fact| !except.contains(&fact.predicate.as_str()))
            .filter(|fact| fact.args.iter().any(|arg| arg == from))
            .cloned()
            .collect();
        for arg in copies.iter_mut().flat_map(|copy| &mut copy.args) {
            if arg == from {
                name.clone_into(arg);
            }
        }
        self.facts.extend(copies);
    }

    /// Replaces names of objects. A name that is not in the map stays.
    pub(super) fn rename(&mut self, names: &BTreeMap<String, String>) {
        let objects = self.objects.iter_mut().map(|(name, _)| name);
        let args = self.facts.iter_mut().flat_map(|fact| &mut fact.args);
        for word in objects.chain(args) {
            if let Some(name) = names.get(word) {
                word.clone_from(name);
            }
        }
    }
}

fn without_comments(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split(';').next().unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the contents of the lists in a text, without their parentheses. Words between the lists
/// are ignored.
fn lists(text: &str) -> Result<Vec<&str>, String> {
    let mut found = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => {
                if depth == 0 {
                    start = at + 1;
                }
                depth += 1;
            }
            b')' if depth == 0 => return Err("a parenthesis is closed that is not open".into()),
            b')' => {
                depth -= 1;
                if depth == 0 {
                    found.push(&text[start..at]);
                }
            }
            _ => {}
        }
    }
    if depth > 0 {
        return Err("a parenthesis is not closed".into());
    }
    Ok(found)
}

/// Returns the objects of `a b - type c - type`.
fn declarations(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut declared = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    let mut words = text.split_ascii_whitespace();
    while let Some(word) = words.next() {
        if word == "-" {
            let kind = words.next().ok_or("an object has no type after its -")?;
            declared.extend(names.drain(..).map(|name| (name.into(), kind.into())));
        } else {
            names.push(word);
        }
    }
    match names.first() {
        Some(name) => Err(format!("the object {name:?} has no type")),
        None => Ok(declared),
    }
}

fn facts(text: &str) -> Result<Vec<NamedFact>, String> {
    let mut facts = Vec::new();
    for list in lists(text)? {
        if list.contains('(') {
            return Err(format!("the initial fact ({list}) is not a plain fact"));
        }
        let mut words = list.split_ascii_whitespace().map(str::to_owned);
        let predicate = words.next().ok_or("an initial fact is empty")?;
        let args: Vec<String> = words.collect();
        if PAIRS.contains(&predicate.as_str()) && args.len() != 2 {
            return Err(format!("the initial fact ({list}) has not two arguments"));
        }
        facts.push(NamedFact { predicate, args });
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "; a comment (with a list\n(define (problem Plan_1)\n(:domain alfred)\n(:objects a1 - agent Mug_bar_1 Mug_bar_2 - object)\n\
                        (:init (holds a1 Mug_bar_1) (clean Mug_bar_1)) (:goal (and (exists (?o - object) (clean ?o)))))\n";

    #[test]
    fn a_problem_is_read_changed_and_read_again() {
        let mut problem = ProblemFacts::parse(TEXT).unwrap();
        assert_eq!(problem.objects[2], ("mug_bar_2".into(), "object".into()));
        assert_eq!(problem.goal, "(and (exists (?o - object) (clean ?o)))");
        assert!(problem.holds("holds", &["a1", "mug_bar_1"]));
        assert_eq!(ProblemFacts::parse(&problem.text("")), Ok(problem.clone()));

        problem.copy("mug_bar_1", "mug_bar_3", &["holds"]);
        problem.remove("mug_bar_1");
        problem.rename(&[("mug_bar_3".into(), "cup_bar_1".into())].into());
        assert_eq!(problem.facts, [NamedFact::new("clean", &["cup_bar_1"])]);
        let names: Vec<&str> = problem
            .objects
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["a1", "mug_bar_2", "cup_bar_1"]);
        assert!(
            problem
                .text("_b")
                .starts_with("(define (problem plan_1_b)\n(:domain alfred)")
        );
    }

    #[test]
    fn an_unreadable_problem_is_refused_with_the_cause() {
        for (text, cause) in [
            ("(define", "not closed"),
            ("(define))", "not open"),
            ("(define (problem p) (:objects a))", "\"a\" has no type"),
            ("(define (:metric x))", "\":metric\" is not known"),
            ("(define (:init (= (cost) 0)))", "not a plain fact"),
            ("(define (:init (canContain a)))", "has not two arguments"),
            ("(define (:goal (p)))", "no (:init"),
        ] {
            let error = ProblemFacts::parse(text).unwrap_err();
            assert!(error.contains(cause), "{error}");
        }
    }
}
