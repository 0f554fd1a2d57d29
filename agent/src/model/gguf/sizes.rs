//! The architecture of a GGUF file and the sizes that its metadata gives, checked against each other.

use super::file::GgufFile;
use super::metadata::{MetadataNumber, MetadataValue};
use crate::error::AgentError;
use crate::model::config::Family;

/// The sizes that the shapes of tensors consist of.
pub(super) struct GgufSizes {
    pub(super) vocabulary: usize,
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Width of a head.
    pub(super) head: usize,
    /// Whether the file gives `head`. If it does not, `head` is hidden / heads.
    pub(super) own_head: bool,
}

impl<R> GgufFile<R> {
    /// The value that `read` finds under a key of this architecture; an error if there is none.
    pub(super) fn needed<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<Option<T>, AgentError>,
    ) -> Result<T, AgentError> {
        read(&self.key(key))?.ok_or_else(|| self.missing(key))
    }

    /// A size above 0 that the file must have.
    pub(super) fn needed_size(&self, key: &str) -> Result<usize, AgentError> {
        match self.needed(key, |key| self.size(key))? {
            0 => Err(self.content(format!("metadata {} is 0", self.key(key)))),
            size => Ok(size),
        }
    }

    /// The error for a key of this architecture that the file lacks.
    pub(super) fn missing(&self, key: &str) -> AgentError {
        self.content(format!("metadata {} is missing", self.key(key)))
    }

    pub(super) fn sizes(&self) -> Result<GgufSizes, AgentError> {
        self.family()?;
        if let parts @ 2.. = self.size("split.count")?.unwrap_or(1) {
            return Err(self.content(format!(
                "one of {parts} files of a model; join them with llama.cpp's gguf-split"
            )));
        }
        let embedding = self.info("token_embd.weight")?;
        let hidden = self.needed_size("embedding_length")?;
        let layers = self.needed_size("block_count")?;
        let [vocabulary, width] = embedding.shape[..] else {
            return Err(self.content(format!(
                "tensor token_embd.weight has shape {:?}",
                embedding.shape
            )));
        };
        let given = self.size(&self.key("vocab_size"))?.unwrap_or(vocabulary);
        if width != hidden || given != vocabulary {
            let shapes = format!(
                "{:?}, the metadata requires [{given}, {hidden}]",
                embedding.shape
            );
            return Err(self.content(format!("tensor token_embd.weight has shape {shapes}")));
        }
        let heads = self
            .layer_size("attention.head_count")?
            .ok_or_else(|| self.missing("attention.head_count"))?;
        let kv_heads = self.layer_size("attention.head_count_kv")?.unwrap_or(heads);
        let inner = self
            .layer_size("feed_forward_length")?
            .ok_or_else(|| self.missing("feed_forward_length"))?;
        let own = self.size(&self.key("attention.key_length"))?;
        let head = own.or_else(|| hidden.checked_div(heads)).unwrap_or(0);
        let sizes = GgufSizes {
            vocabulary,
            hidden,
            inner,
            layers,
            heads,
            kv_heads,
            head,
            own_head: own.is_some(),
        };
        self.check_sizes(&sizes)?;
        Ok(sizes)
    }

    /// A size that some files give once for each layer. If the layers differ, it is an error.
    fn layer_size(&self, key: &str) -> Result<Option<usize>, AgentError> {
        let key = self.key(key);
        let Some(MetadataValue::Numbers(numbers)) = self.metadata.get(&key) else {
            return self.size(&key);
        };
        let mut sizes = numbers.iter().map(whole);
        match sizes.next().flatten() {
            Some(first) if sizes.all(|size| size == Some(first)) => Ok(Some(first)),
            _ => Err(self.content(format!("metadata {key} differs between layers"))),
        }
    }

    fn check_sizes(&self, sizes: &GgufSizes) -> Result<(), AgentError> {
        let GgufSizes {
            hidden,
            inner,
            heads,
            kv_heads,
            head,
            own_head,
            ..
        } = *sizes;
        if [heads, kv_heads, head, inner].contains(&0) || !heads.is_multiple_of(kv_heads) {
            return Err(self.content(format!(
                "{heads} heads of width {head} share {kv_heads} keys; inner width {inner}"
            )));
        }
        if !head.is_multiple_of(2) || !own_head && !hidden.is_multiple_of(heads) {
            return Err(self.content(format!(
                "hidden width {hidden} does not split into {heads} heads of even width"
            )));
        }
        let is_partial = self.family()? == Family::Phi3;
        for key in ["attention.value_length", "rope.dimension_count"] {
            let width = self.size(&self.key(key))?.unwrap_or(head);
            if key == "rope.dimension_count" && is_partial && width < head {
                continue;
            }
            if width != head {
                return Err(self.content(format!(
                    "metadata {} is {width}, a head has {head}",
                    self.key(key)
                )));
            }
        }
        Ok(())
    }
}

fn whole(number: MetadataNumber) -> Option<usize> {
    usize::try_from(number.integer()?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::test_files::{model, refusal, u32_value};

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        for (key, size, reason) in [
            (
                "attention.head_count",
                0,
                "0 heads of width 0 share 1 keys; inner width 6",
            ),
            (
                "attention.head_count_kv",
                3,
                "2 heads of width 4 share 3 keys; inner width 6",
            ),
            (
                "embedding_length",
                7,
                "tensor token_embd.weight has shape [5, 8], the metadata requires [5, 7]",
            ),
            (
                "vocab_size",
                6,
                "tensor token_embd.weight has shape [5, 8], the metadata requires [6, 8]",
            ),
            ("block_count", 0, "metadata llama.block_count is 0"),
            (
                "block_count",
                u32::MAX,
                "tensor blk.1.attn_norm.weight is missing",
            ),
            (
                "feed_forward_length",
                7,
                "tensor blk.0.ffn_gate.weight has shape [6, 8], the metadata requires [7, 8]",
            ),
            (
                "attention.key_length",
                6,
                "tensor blk.0.attn_q.weight has shape [8, 8], the metadata requires [12, 8]",
            ),
            (
                "attention.key_length",
                3,
                "hidden width 8 does not split into 2 heads of even width",
            ),
        ] {
            assert_eq!(
                refusal(&model("llama").set(&format!("llama.{key}"), u32_value(size))),
                reason
            );
        }
        let mut bare = model("llama");
        bare.values.retain(|(key, _)| key != "llama.context_length");
        assert_eq!(refusal(&bare), "metadata llama.context_length is missing");
    }
}
