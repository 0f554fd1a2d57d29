//! Run folders: interruption, disks, locks and shards.

#[cfg(unix)]
mod disk;
mod killed;
#[cfg(unix)]
mod locks;
mod pipeline;
mod pipeline_shards;
#[cfg(unix)]
mod process;
mod ranked;
mod recipe_changes;
mod resume;
#[cfg(unix)]
mod shards;
