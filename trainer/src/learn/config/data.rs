//! The episodes that a job reads: its key `data`.

use serde::{Deserialize, Serialize};

/// Episodes that a job reads. If several sources contain the same episode, it is read once. A source is
/// a name or a table: `data = ["demonstrations", { selected_rollouts = { last = 2, won_per_game = 3 } }]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DataSource {
    /// The expert's episodes.
    Demonstrations,
    /// The DAgger episodes of all students that come before this job in the recipe.
    #[serde(alias = "guided")]
    Dagger,
    /// The policy's own episodes of all iterations so far.
    Rollouts,
    /// The policy's own episodes of this iteration (online learning).
    LatestRollouts,
    /// The branches of this iteration: several actions of one state, with Monte-Carlo returns. They are
    /// no episodes. They train U, and the policy if the table `critic` has it, but not V.
    Branches,
    /// The rescues of this iteration: won continuations of lost rollouts. Only algorithms that
    /// imitate may read them, because they are selected by their outcome.
    Rescues,
    /// A selection of the policy's own episodes.
    #[serde(alias = "chosen_rollouts")]
    SelectedRollouts {
        /// Number of iterations to read, counted back from this one. If 0, all iterations so far.
        #[serde(default)]
        last: usize,
        /// Maximum number of won episodes of a game over all these iterations. If 0, all of them.
        #[serde(default)]
        won_per_game: usize,
        /// Which won episodes are read if a game has more than `won_per_game`.
        #[serde(default)]
        prefer: Prefer,
        /// Whether episodes that were not won are read.
        #[serde(default)]
        lost: Lost,
    },
}

/// Which won episodes of a game are read if not all of them are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    /// Those with the fewest turns. If two have equally many turns, the later one is preferred.
    #[default]
    Shortest,
    /// A random selection, drawn with the recipe's seed.
    Random,
}

/// Whether episodes that were not won are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lost {
    /// All of them are read.
    #[default]
    Kept,
    /// None of them is read.
    LeftOut,
}
