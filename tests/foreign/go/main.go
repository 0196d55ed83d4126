// Checks what agentguard makes with code of others: golang.org/x/mod/sumdb/{tlog,note}, the reference of transparent logs and signed notes.
//
//	foreign site VKEY DIR [WITNESS]     a tlog-tiles site: signature, tile hashes, every entry, every proof of small trees
//	foreign proofs FILE                 lines "record n i root leaf hash..." and "tree n m root old hash...", in hexadecimal
//	foreign tlog-proof VKEY FILE [WITNESS]
//
// Prints one line and ends with 0, or says what does not hold and ends with 1.
package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func check(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

func main() {
	if len(os.Args) < 3 {
		fail("usage: foreign site|proofs|tlog-proof ...")
	}
	arguments := append(os.Args[2:], "")
	switch os.Args[1] {
	case "site":
		site(arguments[0], arguments[1], arguments[2])
	case "proofs":
		proofs(arguments[0])
	case "tlog-proof":
		tlogProof(arguments[0], arguments[1], arguments[2])
	default:
		fail("unknown command %q", os.Args[1])
	}
}

// A cosignature of c2sp.org/tlog-cosignature, written from its text.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return c.hash }
func (c *cosigner) Verify(message, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	header := fmt.Sprintf("cosignature/v1\ntime %d\n", binary.BigEndian.Uint64(signature))
	return ed25519.Verify(c.key, append([]byte(header), message...), signature[8:])
}

func parseCosigner(vkey string) *cosigner {
	parts := strings.SplitN(vkey, "+", 3)
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	check(err)
	if raw[0] != 4 || len(raw) != 33 {
		fail("not the key of a witness")
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), raw...))
	if hex.EncodeToString(sum[:4]) != parts[1] {
		fail("the witness's key id is wrong")
	}
	return &cosigner{parts[0], binary.BigEndian.Uint32(sum[:4]), ed25519.PublicKey(raw[1:])}
}

// Verifies a checkpoint's signatures; with a witness it must be cosigned.
func open(vkey string, data []byte, witness string) tlog.Tree {
	verifier, err := note.NewVerifier(vkey)
	check(err)
	verifiers := []note.Verifier{verifier}
	if witness != "" {
		verifiers = append(verifiers, parseCosigner(witness))
	}
	opened, err := note.Open(data, note.VerifierList(verifiers...))
	check(err)
	if len(opened.Sigs) != len(verifiers) {
		fail("%d of %d signatures", len(opened.Sigs), len(verifiers))
	}
	lines := strings.Split(opened.Text, "\n")
	if lines[0] != verifier.Name() {
		fail("origin %q is not %q", lines[0], verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	check(err)
	root, err := base64.StdEncoding.DecodeString(lines[2])
	check(err)
	if len(root) != tlog.HashSize {
		fail("the root has %d bytes", len(root))
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(*(*[tlog.HashSize]byte)(root))}
}

// Tiles under the paths of c2sp.org/tlog-tiles, which are those of the Go checksum database without the height.
type tiles string

func (directory tiles) Height() int                     { return 8 }
func (directory tiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (directory tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, len(wanted))
	for i, tile := range wanted {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, err := os.ReadFile(filepath.Join(string(directory), path))
		if err != nil {
			return nil, err
		}
		found[i] = data
	}
	return found, nil
}

func entries(directory string, size int64) [][]byte {
	var all [][]byte
	for n := int64(0); n*256 < size; n++ {
		width := size - n*256
		if width > 256 {
			width = 256
		}
		tile := tlog.Tile{H: 8, L: -1, N: n, W: int(width)}
		path := strings.Replace(tile.Path(), "tile/8/data/", "tile/entries/", 1)
		data, err := os.ReadFile(filepath.Join(directory, path))
		check(err)
		for len(data) > 0 {
			length := int(binary.BigEndian.Uint16(data))
			all = append(all, data[2:2+length])
			data = data[2+length:]
		}
	}
	return all
}

func site(vkey, directory, witness string) {
	data, err := os.ReadFile(filepath.Join(directory, "checkpoint"))
	check(err)
	tree := open(vkey, data, witness)
	if tree.N == 0 {
		if tree.Hash != tlog.Hash(sha256.Sum256(nil)) {
			fail("the root of the empty tree is wrong")
		}
		fmt.Println("ok 0")
		return
	}
	reader := tlog.TileHashReader(tree, tiles(directory)) // authenticates every tile that it reads
	records := entries(directory, tree.N)
	if int64(len(records)) != tree.N {
		fail("%d entries of %d", len(records), tree.N)
	}
	small := tree.N <= 70
	for i, record := range records {
		hashes, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(i))})
		check(err)
		if hashes[0] != tlog.RecordHash(record) {
			fail("entry %d is not its leaf", i)
		}
		if small || i%97 == 0 {
			proof, err := tlog.ProveRecord(tree.N, int64(i), reader)
			check(err)
			check(tlog.CheckRecord(proof, tree.N, tree.Hash, int64(i), hashes[0]))
		}
	}
	for n := int64(1); n <= tree.N; n++ {
		if small || n%97 == 0 {
			old, err := tlog.TreeHash(n, reader)
			check(err)
			proof, err := tlog.ProveTree(tree.N, n, reader)
			check(err)
			check(tlog.CheckTree(proof, tree.N, tree.Hash, n, old))
		}
	}
	fmt.Printf("ok %d\n", tree.N)
}

func hash(text string) tlog.Hash {
	raw, err := hex.DecodeString(text)
	check(err)
	if len(raw) != tlog.HashSize {
		fail("a hash of %d bytes", len(raw))
	}
	return tlog.Hash(*(*[tlog.HashSize]byte)(raw))
}

func proofs(file string) {
	data, err := os.ReadFile(file)
	check(err)
	counts := map[string]int{}
	refused := 0
	scanner := bufio.NewScanner(bytes.NewReader(data))
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		size, err := strconv.ParseInt(fields[1], 10, 64)
		check(err)
		other, err := strconv.ParseInt(fields[2], 10, 64)
		check(err)
		root, known := hash(fields[3]), hash(fields[4])
		path := []tlog.Hash{}
		for _, text := range fields[5:] {
			path = append(path, hash(text))
		}
		holds := func() error {
			if fields[0] == "record" {
				return tlog.CheckRecord(path, size, root, other, known)
			}
			return tlog.CheckTree(path, size, root, other, known)
		}
		if err := holds(); err != nil {
			fail("%s: %v", scanner.Text(), err)
		}
		counts[fields[0]]++
		for i := range path {
			path[i][i] ^= 1
			if holds() == nil {
				fail("%s: holds with hash %d changed", scanner.Text(), i)
			}
			path[i][i] ^= 1
			refused++
		}
	}
	check(scanner.Err())
	fmt.Printf("ok %d %d %d\n", counts["record"], counts["tree"], refused)
}

func tlogProof(vkey, file, witness string) {
	data, err := os.ReadFile(file)
	check(err)
	head, checkpoint, found := bytes.Cut(data, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" {
		fail("not a tlog-proof")
	}
	record, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	check(err)
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	check(err)
	var path tlog.RecordProof
	for _, line := range lines[3:] {
		raw, err := base64.StdEncoding.DecodeString(line)
		check(err)
		path = append(path, hash(hex.EncodeToString(raw)))
	}
	tree := open(vkey, checkpoint, witness)
	check(tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash(record)))
	fmt.Printf("ok %d %d\n", index, tree.N)
}
