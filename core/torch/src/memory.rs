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
        let mut words = rest.split(' ');
        let (amount, unit) = (words.next()?.parse::<f64>().ok()?, words.next()?);
        let shift = match unit.trim_end_matches('.') {
            "GiB" => 30,
            "MiB" => 20,
            "KiB" => 10,
            _ => 0,
        };
        return Some((amount * f64::from(1u32 << shift)) as u64);
    }
    let words = ["std::bad_alloc", "Storage size calculation overflowed", "could not create a memory object"];
    words.iter().any(|w| error.contains(w)).then_some(0)
}

#[cfg(test)]
mod tests {
    use super::memory_asked;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn the_words_of_each_allocator_are_known() {
        let error = Tensor::f_zeros([1i64 << 48], (Kind::Float, Device::Cpu)).unwrap_err().to_string();
        assert_eq!(memory_asked(&error), Some(1 << 50));
        let cuda = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB";
        assert_eq!(memory_asked(cuda), Some(5 << 29));
        assert_eq!(memory_asked("std::bad_alloc"), Some(0));
        assert_eq!(memory_asked("shape mismatch"), None);
    }
}
