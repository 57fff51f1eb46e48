//! How large an image may be. The defaults admit every honest image that we know of and
//! stop a hostile one long before it hurts the machine.

/// Bounds on one image. Sizes are of what is read or written, whichever the name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Headers in one layer's archive, extension headers counted. The largest images that
    /// people build (a browser test rig, a machine-learning stack) have about 300,000.
    pub max_layer_entries: u64,
    /// Bytes of one layer when unpacked, holes of sparse files counted.
    pub max_layer_unpacked_bytes: u64,
    /// Bytes of one file, holes counted.
    pub max_file_bytes: u64,
    /// How many times larger than its compressed form a layer may become, once it is past
    /// `expansion_free_bytes`. Source code reaches 20, a zeroed disk image 1,000.
    pub max_expansion: u64,
    pub expansion_free_bytes: u64,
    /// The same two for all layers of an image together.
    pub max_image_entries: u64,
    pub max_image_unpacked_bytes: u64,
    /// Docker's own bound, which leaves room for the mount's options.
    pub max_layers: usize,
    /// Bytes of an index, a manifest or a configuration (the bound of OCI registries).
    pub max_document_bytes: u64,
    /// Bytes of one extension header (long names, PAX records).
    pub max_header_bytes: u64,
    /// Bytes of one component of a name (the bound of Linux file systems).
    pub max_name_bytes: usize,
    /// Bytes of one whole path (PATH_MAX, with its NUL).
    pub max_path_bytes: usize,
    /// Bytes of the paths of all folders of a layer: they are remembered until its end.
    pub max_folder_path_bytes: u64,
    /// Folders above a file.
    pub max_path_depth: usize,
    /// Members of the outer archive, or files of a layout folder, that we look at.
    pub max_members: usize,
    /// Bytes of the outer archive when it is itself compressed.
    pub max_archive_bytes: u64,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_layer_entries: 600_000,
            max_layer_unpacked_bytes: 32 * GIB,
            max_file_bytes: 16 * GIB,
            max_expansion: 200,
            expansion_free_bytes: 512 * MIB,
            max_image_entries: 2_000_000,
            max_image_unpacked_bytes: 64 * GIB,
            max_layers: 127,
            max_document_bytes: 4 * MIB,
            max_header_bytes: MIB,
            max_name_bytes: 255,
            max_path_bytes: 4095,
            max_folder_path_bytes: 128 * MIB,
            max_path_depth: 256,
            max_members: 50_000,
            max_archive_bytes: 64 * GIB,
        }
    }
}
