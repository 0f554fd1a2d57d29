//! The mind: tokenizer, chat, decoder, value head, generation, best-of-K, episodes
