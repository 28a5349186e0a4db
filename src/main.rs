//! The program `handout`. Everything is in the library.

fn main() -> std::process::ExitCode {
    handout::cli::main()
}
