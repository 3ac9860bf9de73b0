//! Decoders: features in, a picture out.

mod residual_unet;
