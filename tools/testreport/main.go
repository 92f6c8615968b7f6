// testreport reads the output of `go test -json`, shows failures as they come, and closes with what ran: how many
// tests passed, failed and were skipped, and how many of them ran against each real service.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

// event is one line of go test -json (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

type name struct{ pkg, test string }

// report is what was seen so far.
type report struct {
	out     io.Writer
	result  map[name]string
	output  map[name][]string
	uses    map[name][]string
	seconds map[string]float64
	broken  []string // packages that failed without a failing test
	lost    error    // why a line could not be written
}

func main() {
	needAll := flag.Bool("real", false, "fail where a real service was used by no test, or a test was skipped")
	flag.Parse()
	r := &report{out: os.Stdout, result: map[name]string{}, output: map[name][]string{}, uses: map[name][]string{}, seconds: map[string]float64{}}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	began := time.Now()
	for in.Scan() {
		r.line(in.Bytes())
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(2)
	}
	if !r.close(*needAll, time.Since(began)) {
		os.Exit(1)
	}
}

func (r *report) say(format string, args ...any) {
	if _, err := fmt.Fprintf(r.out, format, args...); err != nil {
		r.lost = err
	}
}

func (r *report) line(data []byte) {
	var e event
	if err := json.Unmarshal(data, &e); err != nil {
		r.say("%s\n", data) // what the go command itself says: a build error
		return
	}
	n := name{e.Package, e.Test}
	switch e.Action {
	case "output":
		r.output[n] = append(r.output[n], e.Output)
		if _, list, ok := strings.Cut(e.Output, real.Mark); ok {
			r.uses[n] = append(r.uses[n], strings.Split(strings.TrimSpace(list), ",")...)
		}
	case "build-output":
		r.say("%s", e.Output)
	case "pass", "fail", "skip":
		r.end(n, e)
	}
}

func (r *report) end(n name, e event) {
	if n.test == "" {
		r.seconds[e.Package] = e.Elapsed
		if e.Action == "fail" && !r.failedIn(e.Package) {
			r.broken = append(r.broken, e.Package)
			r.say("FAIL %s\n%s%s", e.Package, strings.Join(r.output[n], ""), r.unfinished(e.Package))
		}
		if e.Action != "skip" {
			r.say("%-6s %-60s %6.1fs\n", e.Action, e.Package, e.Elapsed)
		}
		return
	}
	r.result[n] = e.Action
	if e.Action == "fail" {
		r.say("--- FAIL: %s %s\n%s", n.pkg, n.test, strings.Join(r.output[n], ""))
	}
	delete(r.output, n)
}

// unfinished is what the tests said that the package's end cut off: where a run timed out, the stacks are in it.
func (r *report) unfinished(pkg string) string {
	const most = 20_000
	var b strings.Builder
	for n, lines := range r.output {
		if n.pkg == pkg && n.test != "" {
			text := strings.Join(lines, "")
			fmt.Fprintf(&b, "--- CUT OFF: %s\n%s", n.test, text[:min(len(text), most)])
		}
	}
	return b.String()
}

func (r *report) failedIn(pkg string) bool {
	for n, result := range r.result {
		if n.pkg == pkg && result == "fail" {
			return true
		}
	}
	return false
}

// leaf reports whether no other test stands below this one: only leaves are counted.
func (r *report) leaf(n name) bool {
	for other := range r.result {
		if other.pkg == n.pkg && strings.HasPrefix(other.test, n.test+"/") {
			return false
		}
	}
	return true
}

// services are those that the test or one above it named.
func (r *report) services(n name) map[string]bool {
	out := map[string]bool{}
	for user, list := range r.uses {
		if user.pkg == n.pkg && (user.test == n.test || user.test == "" || strings.HasPrefix(n.test, user.test+"/")) {
			for _, s := range list {
				out[s] = true
			}
		}
	}
	return out
}

// close prints the table and tells whether the run was good.
func (r *report) close(needAll bool, took time.Duration) bool {
	count := map[string]int{}
	perService := map[string]int{}
	var skipped []string
	for n, result := range r.result {
		if !r.leaf(n) {
			continue
		}
		count[result]++
		if result == "skip" {
			skipped = append(skipped, n.pkg+" "+n.test)
		}
		if result == "pass" {
			for s := range r.services(n) {
				perService[s]++
			}
		}
	}
	good := count["fail"] == 0 && len(r.broken) == 0 && count["pass"] > 0
	all := []string{real.Keystone, real.Glance, real.Nova, real.Placement, real.RabbitMQ, real.MariaDB, real.Ceph}
	r.say("\nTests that passed against real services:\n")
	for _, s := range slices.Sorted(maps.Keys(perService)) {
		r.say("  %-10s %4d\n", s, perService[s])
	}
	for _, s := range all {
		if needAll && perService[s] == 0 {
			r.say("  %-10s    0: no test used the real %s\n", s, s)
			good = false
		}
	}
	slices.Sort(skipped)
	if len(skipped) > 0 {
		r.say("Skipped:\n  %s\n", strings.Join(skipped, "\n  "))
		good = good && !needAll
	}
	for _, pkg := range r.broken {
		r.say("Broken: %s\n", pkg)
	}
	r.say("in %s\n%d passed, %d failed, %d skipped\n", took.Round(time.Second), count["pass"], count["fail"]+len(r.broken), count["skip"])
	return good && r.lost == nil
}
