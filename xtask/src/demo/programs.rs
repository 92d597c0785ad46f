//! The demo's programs: Debian's own, all bound by the CPU, each with its input at home only.

use std::fmt::Write;

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
    /// A shell command line without redirections; `$IN` is the input file, `$N` the number of
    /// rounds.
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

const PERL: &str = "perl -e 'my ($file, $rounds) = @ARGV;
open(my $in, \"<\", $file) or die; my @words = split \" \", join(\"\", <$in>);
my ($sum, %seen) = (0);
for my $n (1 .. $rounds) {
    for my $word (@words[0 .. 999]) { $seen{$word . $n % 7}++; $sum = ($sum * 33 + ord $word) % 1000000007 }
    print \"$n $sum \", scalar(keys %seen), \"\\n\" if $n % 50 == 0;
}
print \"total $sum\\n\"' $IN $N";

const OPENSSL: &str = "openssl kdf -keylen 64 -kdfopt digest:SHA512 -kdfopt pass:$(sha256sum <$IN | head -c 64) -kdfopt salt:$IN \
    -kdfopt iter:$N PBKDF2";

/// All of them, in the order in which they start. `xz` confines itself by Landlock, so it shows
/// what a program that has to stay looks like; the others can move.
pub const PROGRAMS: [Program; 8] = [
    Program { name: "xz", command: "xz -6e -T1 -c $IN", work: Work::Input, sample: 256 },
    Program { name: "bzip2", command: "bzip2 -9 -c $IN", work: Work::Input, sample: 1_536 },
    Program { name: "python3", command: PYTHON, work: Work::Rounds(64), sample: 200 },
    Program { name: "gzip", command: "gzip -9 -n -c $IN", work: Work::Input, sample: 1_536 },
    Program { name: "openssl", command: OPENSSL, work: Work::Rounds(64), sample: 20_000 },
    Program {
        name: "zstd",
        command: "zstd -q -17 --single-thread --zstd=wlog=19,clog=18,hlog=17 -c $IN",
        work: Work::Input,
        sample: 512,
    },
    Program { name: "perl", command: PERL, work: Work::Rounds(64), sample: 100 },
    Program {
        name: "zstd-threads",
        command: "zstd -q -17 -T2 --zstd=wlog=19,clog=18,hlog=17 -c $IN",
        work: Work::Input,
        sample: 1_024,
    },
];

/// KiB of the text that the inputs are cut from: the most work that a program can be given.
pub const TEXT_KIB: u32 = 20 * 1024;

/// The text: lines of a log, the same on every run.
pub fn text() -> String {
    let size = TEXT_KIB as usize * 1024;
    let mut text = String::with_capacity(size + 200);
    let mut x = 88_172_645_463_325_252_u64;
    for second in 0_u64.. {
        if text.len() >= size {
            break;
        }
        // Marsaglia, "Xorshift RNGs" (2003): 13, 7, 17.
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let (node, service, request) = (x % 16, 1000 + (x >> 8) % 64, (x >> 16) % 5000);
        let (user, file, took) = ((x >> 32) % 40, (x >> 40) % 900, (x >> 50) % 997);
        let (hour, minute) = (second / 3600 % 24, second / 60 % 60);
        let _ = writeln!(
            text,
            "{hour:02}:{minute:02}:{:02} node{node} service[{service}]: request {request} for /home/user{user}/data/{file}.dat took {took} ms",
            second % 60
        );
    }
    text.truncate(size);
    text
}

impl Program {
    /// The shell text that cuts the input file `input`, of the right size for `work` rounds or KiB,
    /// from the file `text`.
    pub fn make_input(&self, text: &str, input: &str, work: u32) -> String {
        let kib = match self.work {
            Work::Input => work,
            Work::Rounds(kib) => kib,
        };
        format!("head -c {kib}K {text} >{input}")
    }

    /// The rounds or KiB that take `target_s` seconds where `work` takes `seconds`.
    pub fn scaled(&self, work: u32, seconds: f64, target_s: f64) -> u32 {
        let work = (f64::from(work) * target_s / seconds.max(0.02)) as u32;
        match self.work {
            Work::Input => work.min(TEXT_KIB),
            Work::Rounds(_) => work,
        }
    }

    /// The command line for `work` rounds or KiB with the input file `input`.
    pub fn command_line(&self, input: &str, work: u32) -> String {
        self.command.replace("$IN", input).replace("$N", &work.to_string())
    }
}
