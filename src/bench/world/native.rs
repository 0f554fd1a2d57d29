//! Speed of the native world.

use super::report::WorldSpeed;
use super::walk::GameWalk;
use crate::bench::measure::{median, memory_mib, milliseconds};
use env_bridge::NativeWorld;
use scenarios::Environment;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Loads and resets every game twice, then plays all commands again and again for two seconds.
pub(super) fn measure(walks: &[GameWalk<'_>]) -> anyhow::Result<WorldSpeed> {
    let world = NativeWorld::new();
    let mut loads = Vec::new();
    let mut resets = Vec::new();
    let mut environments = Vec::new();
    for walk in walks.iter().chain(walks) {
        let start = Instant::now();
        let mut environment = env_bridge::NativeEnvironment::new(world.game(&walk.task.path)?);
        loads.push(milliseconds(start.elapsed()));
        let start = Instant::now();
        black_box(environment.reset()?);
        resets.push(milliseconds(start.elapsed()));
        environments.push(environment);
    }
    let mut commands = 0;
    let mut spent = Duration::ZERO;
    while spent < Duration::from_secs(2) {
        for (walk, environment) in walks.iter().zip(&mut environments) {
            environment.reset()?;
            let start = Instant::now();
            for command in &walk.commands {
                black_box(environment.step(command)?);
                black_box(environment.admissible_commands()?);
            }
            spent += start.elapsed();
            commands += walk.commands.len();
        }
    }
    let copies = 100_000;
    let start = Instant::now();
    for index in 0..copies {
        black_box(environments[index % environments.len()].snapshot());
    }
    Ok(WorldSpeed {
        commands_per_s: commands as f64 / spent.as_secs_f64(),
        load_ms: median(loads),
        reset_ms: median(resets),
        memory_mib: memory_mib(),
        clone_ns: Some(start.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(copies)?)),
    })
}
