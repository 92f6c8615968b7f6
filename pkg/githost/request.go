package githost

import (
	"bufio"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"

	"github.com/kiln-cloud/kiln/pkg/build"
)

// maxLines bounds the lines of one request: more wants, haves or commands than any repository within the limits has.
const maxLines = 200_000

// receiveRequest is what git send-pack asks for.
type receiveRequest struct {
	moves []build.RefMove
	can   map[string]string
	pack  *bufio.Reader // what stands behind the commands
}

// hashText is a SHA-1 as the protocol has it.
var hashText = regexp.MustCompile(`^[0-9a-f]{40}$`)

const zero = "0000000000000000000000000000000000000000"

// readReceive reads the commands; the pack is left to be read. No command at all is git's way to ask whether it may.
func readReceive(r io.Reader, maxMoves int) (receiveRequest, error) {
	req := receiveRequest{can: map[string]string{}, pack: bufio.NewReader(r)}
	lines := pktline.NewScanner(req.pack)
	for n := 0; lines.Scan(); n++ {
		line := string(lines.Bytes())
		if line == "" { // flush
			return req, nil
		}
		if n > maxLines || len(req.moves) >= maxMoves {
			return req, malformed("more than %d commands", maxMoves)
		}
		if strings.HasPrefix(line, "shallow ") {
			continue // what the pusher lacks, the repository has: the check for missing objects says so
		}
		command, can, first := strings.Cut(line, "\x00")
		if first && len(req.moves) == 0 {
			req.can = capabilities(can)
		}
		move, err := readMove(strings.TrimSuffix(command, "\n"))
		if err != nil {
			return req, err
		}
		req.moves = append(req.moves, move)
	}
	if err := lines.Err(); err != nil {
		return req, malformed("%v", err)
	}
	return req, malformed("it ends in the middle of the commands")
}

func readMove(command string) (build.RefMove, error) {
	parts := strings.SplitN(command, " ", 3)
	if len(parts) != 3 || !hashText.MatchString(parts[0]) || !hashText.MatchString(parts[1]) {
		return build.RefMove{}, malformed("a command is the old hash, the new hash and a name")
	}
	for i := range 2 {
		if parts[i] == zero {
			parts[i] = ""
		}
	}
	return build.RefMove{Old: parts[0], New: parts[1], Name: parts[2]}, nil
}

func capabilities(text string) map[string]string {
	out := map[string]string{}
	for word := range strings.FieldsSeq(text) {
		name, value, _ := strings.Cut(word, "=")
		out[name] = value
	}
	return out
}

// uploadRequest is what git fetch-pack asks for.
type uploadRequest struct {
	wants   []plumbing.Hash
	shallow []plumbing.Hash // commits whose parents the client lacks
	depth   int             // 0 for the whole history
	can     map[string]string
	haves   *pktline.Scanner // the lines behind the first flush
}

func readUpload(r io.Reader) (uploadRequest, error) {
	req := uploadRequest{can: map[string]string{}, haves: pktline.NewScanner(r)}
	for n := 0; req.haves.Scan(); n++ {
		line := strings.TrimSuffix(string(req.haves.Bytes()), "\n")
		if line == "" { // flush
			return req, nil
		}
		if n > maxLines {
			return req, malformed("too many lines")
		}
		if err := req.line(line); err != nil {
			return req, err
		}
	}
	if err := req.haves.Err(); err != nil {
		return req, malformed("%v", err)
	}
	return req, malformed("it ends in the middle")
}

func (req *uploadRequest) line(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "want":
		text, can, _ := strings.Cut(rest, " ")
		if !hashText.MatchString(text) {
			return malformed("a want is no hash")
		}
		if len(req.wants) == 0 {
			req.can = capabilities(can)
		}
		req.wants = append(req.wants, plumbing.NewHash(text))
	case "shallow":
		if !hashText.MatchString(rest) {
			return malformed("a shallow is no hash")
		}
		req.shallow = append(req.shallow, plumbing.NewHash(rest))
	case "deepen":
		depth, err := strconv.Atoi(rest)
		if err != nil || depth < 0 {
			return malformed("a depth is a whole number")
		}
		req.depth = depth
	default:
		return malformed("%.20q is not served here", word)
	}
	return nil
}

// What have found.
const (
	aHave = iota
	aFlush
	aDone // the client has told all, and the pack is wanted
	theEnd
)

// have is the next commit that the client has.
func (req *uploadRequest) have() (what int, h plumbing.Hash, err error) {
	if !req.haves.Scan() {
		return theEnd, h, nil
	}
	line := strings.TrimSuffix(string(req.haves.Bytes()), "\n")
	if line == "" {
		return aFlush, h, nil
	}
	if line == "done" {
		return aDone, h, nil
	}
	text, ok := strings.CutPrefix(line, "have ")
	if !ok || !hashText.MatchString(text) {
		return theEnd, h, malformed("a have is no hash")
	}
	return aHave, plumbing.NewHash(text), nil
}
