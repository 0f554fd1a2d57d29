//! Groups of flags that several commands share.

pub(crate) mod concurrency;
pub(crate) mod device;
pub(crate) mod policy;
pub(crate) mod protocol;
pub(crate) mod search;
pub(crate) mod server;
pub(crate) mod shard;
pub(crate) mod stores;
pub(crate) mod world;
