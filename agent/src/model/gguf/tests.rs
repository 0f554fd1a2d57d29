//! Whole files: what was written is read, and damaged files are refused.

use super::GgufFile;
use super::metadata::{MetadataNumber, MetadataValue};
use super::test_files::{
    WrittenTensor, array_value, byte_level, f32_value, model, open, pieces, sample, text_value,
    u32_value,
};
use crate::error::AgentError;
use proptest::prelude::*;

fn refusal(bytes: Vec<u8>) -> String {
    let error = open(bytes).expect_err("refused");
    assert!(matches!(error, AgentError::Content { .. }), "{error}");
    error.to_string()
}

/// Reads everything in a file; the test fails only if this panics.
fn read_everything(bytes: Vec<u8>) {
    let Ok(mut file) = open(bytes) else { return };
    let _ = (
        file.config(),
        file.rope_factors(),
        file.special_tokens(),
        file.tokenizer(),
    );
    let names: Vec<String> = file.tensors().keys().cloned().collect();
    names.iter().for_each(|name| drop(file.tensor(name)));
    for tensor in file.hf_tensors().unwrap_or_default() {
        let _ = file.hf_tensor(&tensor);
    }
}

#[test]
fn what_was_written_is_read() {
    let scalars: [(&str, u32, &[u8], MetadataNumber); 11] = [
        ("u8", 0, &[200], MetadataNumber::Unsigned(200)),
        ("i8", 1, &[200], MetadataNumber::Signed(-56)),
        ("u16", 2, &[1, 2], MetadataNumber::Unsigned(513)),
        ("i16", 3, &[0, 255], MetadataNumber::Signed(-256)),
        (
            "u32",
            4,
            &[255; 4],
            MetadataNumber::Unsigned(u32::MAX.into()),
        ),
        ("i32", 5, &[255; 4], MetadataNumber::Signed(-1)),
        (
            "f32",
            6,
            &1.5_f32.to_le_bytes(),
            MetadataNumber::Single(1.5),
        ),
        ("bool", 7, &[1], MetadataNumber::Bool(true)),
        ("u64", 10, &[255; 8], MetadataNumber::Unsigned(u64::MAX)),
        (
            "i64",
            11,
            &[254, 255, 255, 255, 255, 255, 255, 255],
            MetadataNumber::Signed(-2),
        ),
        (
            "f64",
            12,
            &0.1_f64.to_le_bytes(),
            MetadataNumber::Double(0.1),
        ),
    ];
    let mut writer = sample();
    for (key, code, bytes, _) in scalars {
        writer = writer.set(key, [&code.to_le_bytes()[..], bytes].concat());
        writer = writer.set(
            &format!("{key}s"),
            array_value(code, &[bytes.to_vec(), bytes.to_vec()]),
        );
    }
    let mut file = writer.open();
    for (key, _, _, number) in scalars {
        assert_eq!(file.metadata()[key], MetadataValue::Number(number));
        let MetadataValue::Numbers(numbers) = &file.metadata()[&format!("{key}s")] else {
            panic!("{key}s")
        };
        assert_eq!(
            (numbers.len(), numbers.iter().collect::<Vec<_>>()),
            (2, vec![number; 2])
        );
    }
    assert_eq!(
        file.metadata()["a.texts"],
        MetadataValue::Texts(vec!["x".into(), String::new()])
    );
    assert_eq!((file.version(), file.tensors().len()), (3, 2));
    assert_eq!(file.tensors()["f"].shape, [2, 3], "outermost first");
    assert_eq!(file.tensor("f").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let scale = half::f16::from_le_bytes([1, 1]).to_f32();
    assert_eq!(file.tensor("q").unwrap(), [scale; 64]);
    assert_eq!(open(writer.bytes_with(2, &[0, 96])).unwrap().version(), 2);
}

#[test]
fn a_file_on_disk_is_read_in_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let writer = sample().counting("long", &[1000, 1000]);
    std::fs::write(&path, writer.bytes()).unwrap();
    let mut file = GgufFile::open(&path).unwrap();
    let expected: Vec<f32> = (0..1_000_000).map(|i| i as f32).collect();
    assert_eq!(file.tensor("long").unwrap(), expected);
    let error = file
        .tensor_into("long", &mut [0.0; 3])
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("tensor long has 1000000 numbers, the buffer has room for 3"),
        "{error}"
    );
    assert!(
        file.tensor("short")
            .unwrap_err()
            .to_string()
            .ends_with("there is no tensor short")
    );
    std::fs::write(&path, &writer.bytes()[..3000]).unwrap();
    assert!(
        matches!(file.tensor("long"), Err(AgentError::File { .. })),
        "cut off while open"
    );
    assert!(matches!(
        GgufFile::open(&folder.path().join("none")),
        Err(AgentError::File { .. })
    ));
}

#[test]
fn damaged_beginnings_are_refused() {
    for (place, bytes, reason) in [
        (
            0,
            &b"GGML"[..],
            "byte 4: not a GGUF file: it begins with \"GGML\"",
        ),
        (
            4,
            &[1, 0, 0, 0],
            "byte 8: version 1; only 2 and 3 are supported",
        ),
        (
            4,
            &[4, 0, 0, 0],
            "byte 8: version 4; only 2 and 3 are supported",
        ),
        (
            4,
            &[0, 0, 0, 3],
            "byte 8: the file is big endian; only little endian is supported",
        ),
        (
            8,
            &[255; 8],
            "byte 16: a count of 18446744073709551615 tensors",
        ),
        (
            8,
            &[20, 0, 0, 0],
            "byte 16: a count of 20 tensors needs 640 bytes, the file has 328 more",
        ),
        (
            16,
            &[200, 0, 0, 0],
            "byte 24: a count of 200 metadata values needs 2600 bytes, the file has 320 more",
        ),
        (
            24,
            &[255; 8],
            "byte 32: a metadata key of 18446744073709551615 bytes, 65535 are allowed",
        ),
        (
            24,
            &[0, 8, 0, 0],
            "byte 32: a metadata key needs 2048 bytes, the file has 312 more",
        ),
        (32, &[255], "byte 52: a metadata key is not UTF-8"),
        (
            52,
            &[13],
            "byte 56: metadata general.architecture has the unknown type 13",
        ),
        (
            56,
            &[255; 8],
            "byte 64: general.architecture needs 18446744073709551615 bytes, the file has 280 more",
        ),
    ] {
        let mut whole = sample().bytes();
        whole[place..place + bytes.len()].copy_from_slice(bytes);
        let error = refusal(whole);
        assert!(
            error.starts_with(&format!("model.gguf: {reason}")),
            "{error}"
        );
    }
}

#[test]
fn values_that_claim_too_much_are_refused() {
    let nested = array_value(9, &[]);
    let long = [
        &9_u32.to_le_bytes()[..],
        &4_u32.to_le_bytes(),
        &(1_u64 << 62).to_le_bytes(),
    ]
    .concat();
    let texts = [
        &9_u32.to_le_bytes()[..],
        &8_u32.to_le_bytes(),
        &1000_u64.to_le_bytes(),
    ]
    .concat();
    for (value, reason) in [
        (nested, "metadata x is an array of arrays"),
        (long, "a count of 4611686018427387904 x"),
        (texts, "a count of 1000 x needs 8000 bytes, the file has "),
        (array_value(99, &[]), "metadata x has the unknown type 99"),
        (vec![7, 0, 0, 0, 7], "metadata x has 7 for a truth value"),
        (
            array_value(7, &[vec![1], vec![2]]),
            "metadata x has 2 for a truth value",
        ),
        (
            array_value(8, &[vec![1, 0, 0, 0, 0, 0, 0, 0, 0xC3]]),
            "x is not UTF-8",
        ),
    ] {
        let error = refusal(sample().set("x", value).bytes());
        assert!(error.contains(reason), "{error}");
    }
    let mut twice = sample();
    twice.values.push(twice.values[0].clone());
    assert!(refusal(twice.bytes()).ends_with("metadata general.architecture is defined twice"));
}

#[test]
fn an_adapter_is_no_model() {
    let writer = model("llama").set("general.type", text_value("adapter"));
    let error = super::test_files::refusal(&writer);
    assert!(
        error.contains("LoRA adapter") && error.contains("--adapter FOLDER"),
        "{error}"
    );
}

#[test]
fn impossible_tensors_are_refused() {
    for (sizes, code, reason) in [
        (&[][..], 0, "tensor t has 0 dimensions, 1 to 4 are allowed"),
        (&[1; 5], 0, "tensor t has 5 dimensions, 1 to 4 are allowed"),
        (&[2, 0], 0, "tensor t [2, 0] is empty"),
        (
            &[1 << 40, 1 << 40],
            0,
            "tensor t [1099511627776, 1099511627776] overflows",
        ),
        (&[1 << 62], 0, "overflows"),
        (&[48], 8, "tensor t: Q8_0 has blocks of 32, a row has 48"),
        (
            &[32, 8],
            12,
            "tensor t: Q4_K has blocks of 256, a row has 32",
        ),
        (
            &[256],
            16,
            "tensor t is of type IQ2_XXS, which is not supported\nhint: quantise the model to one of F32, F16,",
        ),
        (
            &[256],
            999,
            "tensor t is of the unknown type 999, which is not supported",
        ),
        (
            &[17],
            0,
            "tensor t at offset 96 takes 68 bytes, past the end of the file (",
        ),
        (&[1 << 61], 0, "past the end of the file ("),
    ] {
        let mut writer = sample();
        writer.tensors[1] = WrittenTensor {
            name: "t".into(),
            sizes: sizes.into(),
            code,
            data: vec![0; 64],
        };
        let error = refusal(writer.bytes());
        assert!(error.contains(reason), "{error}");
    }
    for (offsets, reason) in [
        (
            [0, 64],
            "tensor f at offset 64 begins inside another tensor",
        ),
        (
            [32, 32],
            "tensor f at offset 32 begins inside another tensor",
        ),
        ([0, 100], "tensor f at offset 100 is not aligned to 32"),
    ] {
        let error = refusal(sample().bytes_with(3, &offsets));
        assert!(error.ends_with(reason), "{error}");
    }
    let mut twice = sample();
    twice.tensors[1].name = "q".into();
    assert!(refusal(twice.bytes()).ends_with("tensor q at offset 96 is defined twice"));
    twice.tensors[1].name = "q".repeat(65);
    assert!(refusal(twice.bytes()).ends_with("a tensor's name of 65 bytes, 64 are allowed"));
}

#[test]
fn offsets_near_overflow_are_refused() {
    let whole = sample().bytes();
    let place = whole.len() - 24 - 96 - 32;
    let offset = whole[..place + 32]
        .windows(8)
        .rposition(|bytes| bytes == 96_u64.to_le_bytes())
        .unwrap();
    for claim in [u64::MAX, u64::MAX - 31, 1 << 63, 1 << 40] {
        let mut bytes = whole.clone();
        bytes[offset..offset + 8].copy_from_slice(&claim.to_le_bytes());
        assert!(refusal(bytes).contains(&format!("tensor f at offset {claim}")));
    }
}

#[test]
fn alignments_are_powers_of_two() {
    for alignment in [0, 4, 24, 1 << 21, u32::MAX] {
        let error = refusal(
            sample()
                .set("general.alignment", u32_value(alignment))
                .bytes(),
        );
        assert!(
            error.contains(&format!(
                "general.alignment is {alignment}, not a power of two"
            )),
            "{error}"
        );
    }
    assert!(open(sample().set("general.alignment", u32_value(8)).bytes()).is_ok());
    let error = refusal(sample().set("general.alignment", text_value("32")).bytes());
    assert!(
        error.ends_with("metadata general.alignment is not a whole number"),
        "{error}"
    );
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for seed in seeds() {
        (0..seed.len())
            .for_each(|length| assert!(open(seed[..length].to_vec()).is_err(), "{length}"));
    }
}

#[test]
fn any_one_byte_may_be_wrong() {
    for seed in seeds() {
        for place in (0..seed.len()).step_by(1 + seed.len() / 1000) {
            for flip in [0x01, 0x80, seed[place]] {
                let mut bytes = seed.clone();
                bytes[place] ^= flip;
                read_everything(bytes);
            }
        }
    }
}

#[test]
fn singles_are_read_as_their_shortest_decimal() {
    let file = sample()
        .set("x", f32_value(1e-5))
        .set("y", f32_value(f32::NAN))
        .open();
    assert_eq!(file.positive("x").unwrap(), Some(1e-5));
    assert!(
        file.positive("y")
            .unwrap_err()
            .to_string()
            .ends_with("metadata y is NaN, not a finite number above 0")
    );
}

fn seeds() -> [Vec<u8>; 4] {
    [
        sample().bytes(),
        model("llama").bytes(),
        byte_level().bytes(),
        pieces().bytes(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn many_bytes_may_be_wrong(
        seed in 0..4_usize,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = seeds()[seed].clone();
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        read_everything(bytes.clone());
        bytes.truncate(cut.index(bytes.len()));
        read_everything(bytes);
    }
}
