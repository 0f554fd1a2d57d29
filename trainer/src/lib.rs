//! The lesson: batches, losses, training, evaluation, the collect-train loop
