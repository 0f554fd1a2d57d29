//! The native world: plays a `game.tw-pddl` by interpreting the PDDL and the text grammar in it.
//!
//! ```text
//! game.tw-pddl ─ pddl_domain ──► sexpr ─► pddl ─┐
//!              ─ pddl_problem ─► sexpr ─► pddl ─┼─► ground ─► simulator (states) ─┬─► environment
//!              ─ grammar ──────► grammar ───────┴───────────► text (rendering) ───┘
//! ```
//!
//! Its output equals that of TextWorld 1.7.0 with ALFWorld's demangler, byte for byte: the
//! observation, the admissible commands, and whether the goal holds. The code contains nothing
//! about kitchens; only the rule for display names (`names`) is ALFWorld's.
//!
//! Differs from the Python stack:
//! - If a game would crash the Python stack during play and this can be detected at load, the game
//!   is refused at load.
//! - A command template must not depend on facts that change.
//! - If two applicable operators have the same command, the first in the order of grounding is
//!   applied. The planner has an order of its own.

mod bits;
mod distance;
mod environment;
mod fingerprint;
mod grammar;
mod ground;
mod limits;
mod lists;
mod names;
mod pddl;
mod relaxed;
mod simulator;
mod text;
mod world;

pub(crate) use environment::is_blank;
pub use environment::{NOTHING_HAPPENS, NativeEnvironment};
pub use limits::{FILE_LIMIT, OBJECT_LIMIT, OBJECT_PREDICATE_LIMIT};
pub use names::ObjectNames;
pub use simulator::{FactObject, GameState, NativeGame, Operator, StateFact, UnmetCondition};
pub use world::NativeWorld;
