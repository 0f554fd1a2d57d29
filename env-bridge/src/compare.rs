//! The fields in which two worlds, or a world and a recording, are compared.

use scenarios::{Environment, EnvironmentError, Status};
use serde::Serialize;

/// The response of a world to a reset or a command: all fields that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorldResponse {
    pub(crate) text: String,
    pub(crate) admissible: Vec<String>,
    pub(crate) status: Status,
}

/// The first field in which two responses differ, with its value in each as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldDifference {
    /// `observation`, `admissible` or `won`.
    pub(crate) field: &'static str,
    pub(crate) left: String,
    pub(crate) right: String,
}

impl WorldResponse {
    /// Executes a command, or a reset if `command` is `None`, and reads every field that is
    /// compared.
    pub(crate) fn to(
        command: Option<&str>,
        environment: &mut dyn Environment,
    ) -> Result<Self, EnvironmentError> {
        let observation = match command {
            None => environment.reset()?,
            Some(command) => environment.step(command)?,
        };
        Ok(Self {
            text: observation.text,
            admissible: environment.admissible_commands()?,
            status: observation.status,
        })
    }

    /// Returns the first field in which this response, the left one, differs from the other.
    /// Returns `None` if they are equal.
    pub(crate) fn first_difference(&self, right: &Self) -> Option<FieldDifference> {
        if self.text != right.text {
            Some(FieldDifference {
                field: "observation",
                left: json(&self.text),
                right: json(&right.text),
            })
        } else if self.admissible != right.admissible {
            Some(FieldDifference {
                field: "admissible",
                left: json(&self.admissible),
                right: json(&right.admissible),
            })
        } else if self.status != right.status {
            Some(FieldDifference {
                field: "won",
                left: status_json(self.status),
                right: status_json(right.status),
            })
        } else {
            None
        }
    }
}

/// Returns `true` or `false` for whether the goal holds. If the game is lost, which a household
/// game never is, returns `"lost"`.
fn status_json(status: Status) -> String {
    match status {
        Status::Playing => "false".to_owned(),
        Status::Won => "true".to_owned(),
        Status::Lost => json("lost"),
    }
}

fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string())
}
