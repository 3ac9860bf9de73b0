//! What libtorch says when memory runs out.

/// The bytes that an allocation asked for, if an error says that there is no memory for it.
///
/// libtorch has no kind of error for this on the CPU, so its words decide: those of the CPU allocator, of the CUDA
/// allocator, of sizes that no address can hold, and of the C++ library, which does not say how much it wanted (0).
pub fn memory_asked(error: &str) -> Option<u64> {
    if let Some((_, rest)) = error.split_once("can't allocate memory: you tried to allocate ") {
        return rest.split(' ').next()?.parse().ok();
    }
    if let Some((_, rest)) = error.split_once("CUDA out of memory. Tried to allocate ") {
        return amount(rest);
    }
    let words = ["std::bad_alloc", "Storage size calculation overflowed", "could not create a memory object"];
    words.iter().any(|w| error.contains(w)).then_some(0)
}

/// An amount such as `2.50 GiB` at the beginning of a text, in bytes.
fn amount(text: &str) -> Option<u64> {
    let mut words = text.split(' ');
    let (amount, unit) = (words.next()?.parse::<f64>().ok()?, words.next()?);
    let shift = match unit.trim_end_matches('.') {
        "GiB" => 30,
        "MiB" => 20,
        "KiB" => 10,
        _ => 0,
    };
    Some((amount * f64::from(1u32 << shift)) as u64)
}

/// The bytes of a GPU that are free, and those that it has, if an error of CUDA's allocator tells them.
pub fn card_memory(error: &str) -> Option<(u64, u64)> {
    let (total, rest) = error.split_once("has a total capacity of ")?.1.split_once(" of which ")?;
    Some((amount(rest)?, amount(total)?))
}

/// The bytes that tensors hold on a GPU, if an error of CUDA's allocator tells them.
pub fn card_allocated(error: &str) -> Option<u64> {
    amount(error.split_once("Of the allocated memory ")?.1)
}

#[cfg(test)]
mod tests {
    use super::{card_allocated, card_memory, memory_asked};
    use tch::{Device, Kind, Tensor};

    #[test]
    fn the_words_of_each_allocator_are_known() {
        let error = Tensor::f_zeros([1i64 << 48], (Kind::Float, Device::Cpu)).unwrap_err().to_string();
        assert_eq!(memory_asked(&error), Some(1 << 50));
        let cuda = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.50 GiB of which 64.00 MiB \
                    is free. Process 7 has 79.00 GiB memory in use. Of the allocated memory 70.25 GiB is allocated by \
                    PyTorch, and 1.00 GiB is reserved by PyTorch but unallocated.";
        assert_eq!(memory_asked(cuda), Some(5 << 29));
        assert_eq!((card_memory(cuda), card_allocated(cuda)), (Some((64 << 20, 159 << 29)), Some(281 << 28)));
        assert_eq!(memory_asked("std::bad_alloc"), Some(0));
        assert_eq!(memory_asked("shape mismatch"), None);
    }
}
