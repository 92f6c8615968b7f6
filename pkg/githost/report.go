package githost

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// maxTold bounds the lines on the pusher's terminal.
const maxTold = 200

func (p *push) say(format string, args ...any) {
	p.lines = append(p.lines, fmt.Sprintf(format, args...))
}

// counted is a number with its noun.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// faults refuses the push with every fault of every recipe.
func (p *push) faults(set *recipe.Set) error {
	var all recipe.ParseErrors
	for _, path := range slices.Sorted(maps.Keys(set.Faults)) {
		all = append(all, set.Faults[path]...)
	}
	for _, e := range all {
		p.say("%s", e.Error())
	}
	p.say("%s in %s: nothing was stored", counted(len(all), "fault"), counted(len(set.Faults), "recipe"))
	return all
}

// tell says what the push does.
func (p *push) tell(out build.Push, outcomes []build.Outcome) {
	if out.Reading == nil {
		return
	}
	p.say("%s at %.7s", counted(len(outcomes), "recipe"), out.Reading.Commit)
	for _, o := range outcomes {
		if o.Build == nil {
			p.say("no build of %s: %s", o.Recipe.Name, o.Why)
			continue
		}
		what := "build of"
		if o.Build.State == build.Running {
			what = "another build follows the running one of"
		}
		p.say("%s %s (family %s): %s", what, o.Recipe.Name, o.Build.Family, p.who.Link(*o.Build))
	}
}

// report ends the answer: what was said, then how each ref fared. All share one fate.
func report(w io.Writer, req receiveRequest, lines []string, fault error) error {
	var status bytes.Buffer
	e := pktline.NewEncoder(&status)
	unpack, why := "ok", short(fault)
	if code := errs.CodeOf(fault); fault != nil && (code == "kiln.git.pack" || code == "kiln.git.object") {
		unpack = why
	}
	if err := e.Encodef("unpack %s\n", unpack); err != nil {
		return err
	}
	for _, m := range req.moves {
		line := "ok " + m.Name
		if fault != nil {
			line = "ng " + m.Name + " " + why
		}
		if err := e.EncodeString(line + "\n"); err != nil {
			return err
		}
	}
	if err := e.Flush(); err != nil {
		return err
	}
	if _, wants := req.can["report-status"]; !wants {
		status.Reset()
	}
	if _, band := req.can["side-band-64k"]; !band {
		_, err := w.Write(status.Bytes())
		return err
	}
	return banded(w, told(lines, fault), status.Bytes())
}

func banded(w io.Writer, lines []string, status []byte) error {
	mux := sideband.NewMuxer(sideband.Sideband64k, w)
	for _, l := range lines {
		if _, err := mux.WriteChannel(sideband.ProgressMessage, []byte(plain(l)+"\n")); err != nil {
			return err
		}
	}
	if _, err := mux.Write(status); err != nil {
		return err
	}
	return pktline.NewEncoder(w).Flush()
}

// told are the lines for the terminal, with the whole reason of a refusal: git shows only the short one of its own.
func told(lines []string, fault error) []string {
	if fault != nil && len(lines) == 0 {
		lines = strings.Split(fault.Error(), "\n")
	}
	if n := len(lines) - maxTold; n > 0 {
		lines = append(lines[:maxTold:maxTold], fmt.Sprintf("and %d lines more", n))
	}
	return lines
}

// plain keeps a pushed text from moving the cursor of the terminal that shows it.
func plain(line string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(line, "?"))
}

// short is a reason on one line.
func short(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	if all, ok := err.(recipe.ParseErrors); ok { //nolint:errorlint // faults returns it bare
		text = counted(len(all), "fault") + " in the recipes"
	}
	text, _, _ = strings.Cut(text, "\n")
	return plain(text[:min(len(text), 300)])
}
