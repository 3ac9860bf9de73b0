//! Image transforms, each a file.

mod blur;
mod color_jitter;
mod grayscale;
mod horizontal_flip;
mod jpeg;
mod normalize;
mod random_crop;
mod resize;

/// The transform is its own configuration.
macro_rules! self_made {
    ($name:literal, $type:ty) => {
        impl $crate::data::TransformConfig for $type {
            fn open(&self) -> anyhow::Result<std::sync::Arc<dyn $crate::data::Transform>> {
                Ok(std::sync::Arc::new(self.clone()))
            }
        }
        $crate::register!(Transform, $name, $type);
    };
}
use self_made;

fn half() -> f64 {
    0.5
}
