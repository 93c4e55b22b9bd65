//! The driver's result codes that softcuda returns (cuda.h, `CUresult`).

macro_rules! codes {
    ($($code:ident = $value:literal, $name:literal, $text:literal;)*) => {
        /// A `CUresult` other than success.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Code { $($code = $value,)* }

        /// Name and text of a `CUresult`, both ending in NUL; None where it is not one that is known.
        pub fn describe(code: u32) -> Option<(&'static str, &'static str)> {
            match code {
                0 => Some(("CUDA_SUCCESS\0", "no error\0")),
                $($value => Some((concat!($name, "\0"), concat!($text, "\0"))),)*
                _ => None,
            }
        }
    };
}

codes! {
    InvalidValue = 1, "CUDA_ERROR_INVALID_VALUE", "invalid argument";
    OutOfMemory = 2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory";
    NotInitialised = 3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error";
    NoDevice = 100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected";
    InvalidDevice = 101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal";
    InvalidImage = 200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid";
    InvalidContext = 201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context";
    NoBinary = 209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device";
    InvalidPtx = 218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed";
    FileNotFound = 301, "CUDA_ERROR_FILE_NOT_FOUND", "file not found";
    InvalidHandle = 400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle";
    NotFound = 500, "CUDA_ERROR_NOT_FOUND", "named symbol not found";
    IllegalAddress = 700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered";
    LaunchTimeout = 702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated";
    IllegalInstruction = 715, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered";
    MisalignedAddress = 716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address";
    LaunchFailed = 719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure";
    NotSupported = 801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported";
    Unknown = 999, "CUDA_ERROR_UNKNOWN", "unknown error";
}

pub type Api<T> = std::result::Result<T, Code>;
