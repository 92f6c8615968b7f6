package solve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Priorities of https://manpages.debian.org/apt_preferences: below 100, what is installed is never replaced, and what is
// not installed may come in as a dependency.
const (
	priorityNew  = 50
	priorityThis = 990
)

func pin(pkg, what string, priority int) string {
	return fmt.Sprintf("Package: %s\nPin: %s\nPin-Priority: %d\n\n", pkg, what, priority)
}

// records are the plan's own preferences. Under a policy of security fixes only, the other suites give no new versions of
// what is installed, but still what a fix newly depends on.
func (j *job) records() []byte {
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(j.pins)) {
		b.WriteString(j.pins[key])
	}
	if j.q.Policy.Security {
		for _, s := range j.lists.suites {
			if !s.security && s.codename != "" {
				b.WriteString(pin("*", "release n="+s.codename, priorityNew))
			}
		}
	}
	return b.Bytes()
}

// widen lets security fixes have those packages of other suites without which apt keeps them back: a fix may need a newer
// version of something that is installed.
func (j *job) widen(ctx context.Context) error {
	if !j.q.Policy.Security {
		return nil
	}
	args := []string{"-s", "install"}
	for _, m := range j.answer.kept {
		if p := j.state.find(j.state.id(m.name, m.arch)); p != nil && !p.Held() {
			args = append(args, fmt.Sprintf("%s:%s=%s", m.name, j.archOf(m), m.to))
		}
	}
	if len(args) == 2 {
		return nil
	}
	out, err := j.unpinned(ctx, args...)
	if said := (*aptError)(nil); errors.As(err, &said) {
		return nil // they stay as they are, and held tells why
	}
	if err != nil {
		return err
	}
	found := false
	for line := range strings.SplitSeq(out, "\n") {
		m := instLine.FindStringSubmatch(line)
		if m == nil || m[2] == "" {
			continue
		}
		j.pins["wide "+m[1]] = pin(m[1], "version "+m[3], priorityThis)
		found = true
	}
	if !found {
		return nil
	}
	return j.ask(ctx)
}

// archOf is the architecture of a package in apt's answer.
func (j *job) archOf(m move) string {
	if m.arch == "" {
		return j.state.native
	}
	return m.arch
}

// unpinned asks apt without the plan's own records.
func (j *job) unpinned(ctx context.Context, args ...string) (string, error) {
	pins, policy := j.pins, j.q.Policy
	defer func() { j.pins, j.q.Policy = pins, policy }()
	j.pins, j.q.Policy.Security = nil, false
	return j.run(ctx, args...)
}
