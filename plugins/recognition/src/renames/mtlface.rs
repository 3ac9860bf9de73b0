use mtl_component::rename;

// The names in MTLFace's released checkpoints, and those of the modules in `recipes/graphs/mtl_scaf.toml`.
rename!(
    "mtlface",
    &[
        ("backbone.fsm.", "decompose."),
        ("backbone.output_layer.", "embed."),
        ("head.", "identity."),
        ("estimation_network.", "age."),
        ("generator.conv1.", "icm.conv1."),
        ("generator.router.", "icm.router."),
        ("generator.transform.", "icm.transform."),
        ("generator.conv2.", "icm.conv2."),
        ("generator.", "decoder."),
        ("discriminator.", "critic."),
        ("da_discriminator.", "leak."),
    ]
);
