package testboot

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/build"
)

// maxParts bounds what one report may hold: 64 lines of 160 characters.
const maxParts = 64

var frameLine = regexp.MustCompile(`@kiln:([0-9a-f]{32}):(([a-z]+):([0-9]{1,3}):([0-9]{1,3}):([0-9]{1,3}):([A-Za-z0-9+/=]{0,160})):([0-9a-f]{8})@`)

// frames puts the script's reports together, whatever order and number of times their lines come in.
type frames struct {
	nonce string
	parts map[string][]string // by kind and index
	whole map[string]string
	again bool // a guest's script has begun a second time
}

func newFrames(nonce string) *frames {
	return &frames{nonce: nonce, parts: map[string][]string{}, whole: map[string]string{}}
}

// take reads the frames of one console line. It says whether there were any (also broken ones: the line is none for
// people), and the kind and index of those that became complete.
func (f *frames) take(line string) (seen bool, complete []string) {
	if !strings.Contains(line, "@kiln:") {
		return false, nil
	}
	for _, m := range frameLine.FindAllStringSubmatch(line, -1) {
		if m[1] != f.nonce {
			continue
		}
		seen = true
		sum := sha256.Sum256([]byte(m[2]))
		if hex.EncodeToString(sum[:4]) != m[8] {
			continue
		}
		part, _ := strconv.Atoi(m[5])
		parts, _ := strconv.Atoi(m[6])
		key := m[3] + ":" + m[4]
		if f.add(key, part, parts, m[7]) {
			complete = append(complete, key)
		}
	}
	return seen || strings.Contains(line, "@kiln:"+f.nonce), complete
}

func (f *frames) add(key string, part, parts int, data string) bool {
	whole, done := f.whole[key]
	if done && key == "hello:0" && part == 1 && parts == 1 {
		raw, err := base64.StdEncoding.DecodeString(data)
		f.again = f.again || err == nil && printable(string(raw)) != whole
	}
	if done || part < 1 || part > parts || parts > maxParts || len(f.parts) > 4*maxTests {
		return false
	}
	have := f.parts[key]
	if len(have) != parts {
		have = make([]string, parts)
		f.parts[key] = have
	}
	have[part-1] = "=" + data // an empty part is one that is there
	if slices.Contains(have, "") {
		return false
	}
	var text strings.Builder
	for _, p := range have {
		text.WriteString(p[1:])
	}
	raw, err := base64.StdEncoding.DecodeString(text.String())
	if err != nil {
		delete(f.parts, key)
		return false
	}
	f.whole[key] = printable(string(raw))
	return true
}

// get is a complete report.
func (f *frames) get(kind string, index int) (string, bool) {
	text, ok := f.whole[kind+":"+strconv.Itoa(index)]
	return text, ok
}

// test is the outcome of one test: the first line has its exit status and the guest's uptime before and after.
func (f *frames) test(i int, name string) (build.CommandTest, bool) {
	text, ok := f.get("test", i)
	if !ok {
		return build.CommandTest{}, false
	}
	head, output, _ := strings.Cut(text, "\n")
	out := build.CommandTest{Name: name, Status: -1, Output: strings.TrimSpace(output)}
	var from, to float64
	if _, err := fmt.Sscanf(head, "%d %f %f", &out.Status, &from, &to); err == nil {
		out.Seconds = to - from
	}
	return out, true
}

// cloudInit is the status in the output of `cloud-init status --long`.
func cloudInit(text string) string {
	for line := range strings.SplitSeq(text, "\n") {
		if _, status, ok := strings.Cut(line, "status: "); ok {
			return strings.TrimSpace(status)
		}
	}
	return ""
}

// cloudInitFailed tells whether cloud-init failed as a whole, with what it said. A single module of its last two stages
// that failed is not that: newer versions call it "degraded done", older ones "error" alike, and only their status file
// (/run/cloud-init/status.json, https://docs.cloud-init.io/en/22.4/topics/status.html) tells the stage.
func cloudInitFailed(text string) (said string, fatal bool) {
	said, stages, _ := strings.Cut(text, "@stages")
	said = strings.TrimSpace(said)
	switch cloudInit(said) {
	case "done", "degraded done":
		return said, false
	case "error":
	default:
		return said, true
	}
	var file struct {
		V1 map[string]json.RawMessage `json:"v1"`
	}
	if json.Unmarshal([]byte(stages), &file) != nil {
		return said, true
	}
	for _, name := range []string{"init-local", "init"} {
		var stage struct {
			Errors []string `json:"errors"`
		}
		if json.Unmarshal(file.V1[name], &stage) != nil || len(stage.Errors) > 0 {
			return said, true
		}
	}
	return said, false
}
