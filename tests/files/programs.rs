//! Everyday programs work on the mount as they do at home.

use super::fixture::Guest;

#[test]
fn copying_packing_and_finding_agree_with_home() {
    let guest = Guest::new();
    guest.sh(r#"
        mkdir -p "$HOME_TREE/src/deep/er"
        cp -a /etc/. "$HOME_TREE/src/etc" 2>/dev/null || true
        ln -s ../etc/passwd src/deep/link; ln src/etc/passwd src/deep/er/hard
        mkfifo src/deep/fifo; printf 'x%.0s' $(seq 5000) > src/deep/text
        touch -d '2001-02-03 04:05:06.789' src/deep/text; touch -d '1960-01-01 00:00:00.25' src/deep/old
        chmod 4751 src/deep/text; chmod 1777 src/deep/er; chown 12:34 src/deep/old; chown -h 5:6 src/deep/link
        cp -a src copy
        tar cf packed.tar src; mkdir unpacked; tar xpf packed.tar -C unpacked
        "#);
    // What home shows of the three trees, to the nanosecond.
    let listing = |dir: &str| {
        let find = r#"find . -printf '%P %y %m %U %G %n %s %l %T@\n' | grep -v ' d ' | sort; find . -type f -exec sha256sum {} + | sort"#;
        String::from_utf8(guest.try_sh(&guest.home(dir), find).stdout).unwrap()
    };
    let original = listing("src");
    assert!(original.lines().count() > 100, "{original}");
    assert_eq!(original, listing("copy"));
    // tar keeps whole seconds only in its default format.
    let seconds = |text: &str| text.lines().map(|line| line.split('.').next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(seconds(&original), seconds(&listing("unpacked/src")));
    // And the guest sees what home sees.
    let find = r#"find . -printf '%P %y %m %U %G %n %s %l %i %T@ %A@ %C@\n' | sort"#;
    let (seen, there) = (guest.try_sh(&guest.guest("src"), find).stdout, guest.try_sh(&guest.home("src"), find).stdout);
    let without_root =
        |text: Vec<u8>| String::from_utf8(text).unwrap().lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(without_root(seen), without_root(there));
    guest.sh("rm -rf copy unpacked src packed.tar; [ -z \"$(ls -A)\" ]");
}

#[test]
fn programs_and_scripts_run_from_it() {
    let guest = Guest::new();
    let out = guest.sh(r#"
        cp /bin/echo ./program; ./program binary
        printf '#!%s/program\n' "$GUEST_TREE" > script; chmod +x script; ./script argument
        printf '#!/bin/sh\necho "$0 $1"\n' > shell; chmod +x shell; ./shell one
        cp /usr/bin/sort ./sort; printf 'b\na\n' | ./sort
        "#);
    assert_eq!(out, "binary\n./script argument\n./shell one\na\nb\n");
}

#[test]
fn a_program_is_compiled_and_run() {
    let guest = Guest::new();
    let out = guest.sh(r#"
        printf '#include <stdio.h>\nint twice(int);\nint main(void){printf("%%d\\n", twice(21));return 0;}\n' > main.c
        printf 'int twice(int x){return 2*x;}\n' > twice.c
        cc -c main.c; cc -c twice.c; ar rc libtwice.a twice.o; cc -o main main.o -L. -ltwice; ./main
        "#);
    assert_eq!(out, "42\n");
}

#[test]
fn git_keeps_a_repository() {
    let guest = Guest::new();
    guest.sh(r#"
        export HOME="$GUEST_TREE" GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        git init -q -b main repo; cd repo
        for i in $(seq 50); do echo $i > file$i; done; git add .; git commit -qm one
        echo changed > file7; git commit -qam two; git gc -q; git fsck --strict
        [ "$(git status --porcelain | wc -l)" = 0 ]; [ "$(git show HEAD:file7)" = changed ]
        git clone -q . ../clone
        "#);
    let out = guest.try_sh(&guest.home("clone"), "git -c safe.directory='*' log --format=%s; cat file7");
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "two\none\nchanged\n");
}

#[test]
fn python_maps_files_shared_and_private() {
    let guest = Guest::new();
    guest.sh(r#"
        python3 - <<'END'
import mmap, os
with open('f', 'w+b') as f:
    f.truncate(100_000)
    with mmap.mmap(f.fileno(), 0) as shared:
        shared[5:10] = b'hello'; shared[99_990:99_995] = b'there'; shared.flush()
        home = os.environ['HOME_TREE'] + '/f'
        assert open(home, 'rb').read()[5:10] == b'hello'
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY) as private:
            private[0:5] = b'mine!'
            assert shared[0:5] == bytes(5)
        assert f.read(10) == bytes(5) + b'hello'
        f.seek(5); f.write(b'HELLO'); f.flush()
        assert shared[5:10] == b'HELLO'
        shared[20:24] = b'last'
data = open(home, 'rb').read()
assert data[5:10] == b'HELLO' and data[20:24] == b'last' and data[99_990:99_995] == b'there' and len(data) == 100_000
END
        "#);
}

#[test]
fn a_data_base_works() {
    let guest = Guest::new();
    let out = guest.sh(
        r#"
        for mode in delete wal; do
            sqlite3 $mode.db "pragma journal_mode=$mode; create table t(x); insert into t select value from generate_series(1,1000);" > /dev/null
            for i in 1 2 3 4; do (for j in $(seq 5); do sqlite3 -cmd '.timeout 30000' $mode.db 'update t set x = x + 1;'; done) & done; wait
            sqlite3 $mode.db 'select sum(x) from t; pragma integrity_check;'
        done
        "#,
    );
    assert_eq!(out, "520500\nok\n520500\nok\n");
    let there = guest.try_sh(&guest.home(""), "sqlite3 delete.db 'select sum(x) from t'");
    assert_eq!(there.stdout, b"520500\n");
}

#[test]
fn large_files_cross_in_both_directions() {
    let guest = Guest::new();
    guest.sh(r#"
        dd if=/dev/urandom of="$HOME_TREE/down" bs=1M count=96 status=none
        cmp down "$HOME_TREE/down"
        cp --reflink=never down up; cmp up "$HOME_TREE/down"; cmp "$HOME_TREE/up" "$HOME_TREE/down"
        dd if=down of=direct bs=1M iflag=direct oflag=direct status=none; cmp "$HOME_TREE/direct" "$HOME_TREE/down"
        dd if=down of=odd bs=4099 count=3000 conv=fsync status=none; cmp -n 12297000 "$HOME_TREE/odd" "$HOME_TREE/down"
        dd if=down of=up bs=64k seek=3 count=5 conv=notrunc status=none; [ "$(stat -c %s up)" = 100663296 ]
        "#);
}
