//! The demo's programs: Debian's own, all bound by the CPU, each with its input at home only.

/// How a program's work grows.
pub enum Work {
    /// With the size of its input file, in KiB.
    Input,
    /// With a number of rounds; the input file has this many KiB.
    Rounds(u32),
}

/// One program.
pub struct Program {
    /// Its name in tables and file names.
    pub name: &'static str,
    /// A shell command line without redirections; `$IN` is the input file, `$N` the number of rounds.
    pub command: &'static str,
    /// How its work grows.
    pub work: Work,
    /// Rounds or KiB of a run that is just long enough to be measured.
    pub sample: u32,
}

const PYTHON: &str = "python3 -c 'import sys,zlib,random
data = open(sys.argv[1],\"rb\").read()
state = random.Random(zlib.crc32(data))
total = 0
for n in range(int(sys.argv[2])):
    total = (total * 31 + sum(x * x for x in data[:2000]) + state.getrandbits(32)) % (1 << 61)
    if n % 50 == 0: print(n, total)
print(\"total\", total)' $IN $N";

/// All of them, in the order in which they start.
pub const PROGRAMS: [Program; 8] = [
    Program { name: "xz", command: "xz -9e -c $IN", work: Work::Input, sample: 128 },
    Program { name: "bzip2", command: "bzip2 -9 -c $IN", work: Work::Input, sample: 256 },
    Program { name: "python3", command: PYTHON, work: Work::Rounds(64), sample: 60 },
    Program { name: "gzip", command: "gzip -9 -n -c $IN", work: Work::Input, sample: 512 },
    Program {
        name: "openssl",
        command: "openssl kdf -keylen 64 -kdfopt digest:SHA512 -kdfopt pass:$(cksum <$IN | tr -d ' ') -kdfopt salt:$IN -kdfopt iter:$N PBKDF2",
        work: Work::Rounds(64),
        sample: 4_000,
    },
    Program { name: "zstd", command: "zstd -q -19 --single-thread -c $IN", work: Work::Input, sample: 128 },
    Program { name: "sha256sum", command: "sha256sum $(yes $IN | head -n $N)", work: Work::Rounds(1_024), sample: 4 },
    Program { name: "xz-threads", command: "xz -6 -T2 --block-size=256KiB -c $IN", work: Work::Input, sample: 256 },
];

impl Program {
    /// The shell text that makes the input file `input` of the right size for `work` rounds or KiB: the same on every run.
    pub fn make_input(&self, input: &str, work: u32) -> String {
        let kib = match self.work {
            Work::Input => work,
            Work::Rounds(kib) => kib,
        };
        // Base64 of a fixed key stream, thinned out: compresses like a text, and nothing has to be stored.
        format!(
            "openssl enc -aes-128-ctr -K 6d6f736978 -iv 00 -in /dev/zero 2>/dev/null | base64 -w 61 | tr '0-9' 'eeeaaattti' | head -c {kib}K >{input}"
        )
    }

    /// The command line for `work` rounds or KiB with the input file `input`.
    pub fn command_line(&self, input: &str, work: u32) -> String {
        self.command.replace("$IN", input).replace("$N", &work.to_string())
    }
}
