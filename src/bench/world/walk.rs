//! The commands that a benchmark plays in a game.

use env_bridge::NativeWorld;
use scenarios::{Task, World};

/// A game and the commands to play in it.
pub(super) struct GameWalk<'a> {
    pub(super) task: &'a Task,
    pub(super) commands: Vec<String>,
}

impl<'a> GameWalk<'a> {
    /// Takes the commands of the game's walkthrough, then admissible commands that a fixed rule
    /// selects.
    pub(super) fn new(world: &NativeWorld, task: &'a Task, turns: usize) -> anyhow::Result<Self> {
        let game = world.game(&task.path)?;
        let mut environment = world.open(task)?;
        environment.reset()?;
        let mut commands: Vec<String> = Vec::with_capacity(turns);
        let walkthrough = game.walkthrough().unwrap_or_default();
        while commands.len() < turns {
            let admissible = environment.admissible_commands()?;
            let command = match walkthrough.get(commands.len()) {
                Some(command) => command.clone(),
                None => admissible[commands.len() * 7919 % admissible.len()].clone(),
            };
            environment.step(&command)?;
            commands.push(command);
        }
        Ok(Self { task, commands })
    }
}
