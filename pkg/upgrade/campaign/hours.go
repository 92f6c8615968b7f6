package campaign

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // hours name time zones, and a control plane in a container may have no list of them

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Hours are when a campaign may start upgrades; none means always. The windows of several lines add up.
type Hours []window

// window opens on some days of the week at a minute of the day and closes at another, of the next day where that is not later.
type window struct {
	days     [7]bool // by time.Weekday, of the day on which it opens
	from, to int     // minutes of the day; to may be 24 h
	zone     *time.Location
}

const (
	minutesOfDay = 24 * 60
	maxWindows   = 50
)

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// ParseHours reads lines as "Mon-Fri 20:00-06:00 Europe/Berlin": days (all where left out), opening and closing time on the
// clock of a time zone (UTC where left out). errs.Invalid for anything else.
func ParseHours(lines []string) (Hours, error) {
	if len(lines) > maxWindows {
		return nil, badHours("%d lines: there may be %d", len(lines), maxWindows)
	}
	var out Hours
	for _, line := range lines {
		w, err := parseWindow(line)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

func badHours(format string, args ...any) error {
	return errs.New(errs.Invalid, "kiln.campaign.hours", format, args...).At(errs.Where{Field: "hours"})
}

func parseWindow(line string) (w window, err error) {
	w.zone = time.UTC
	words := strings.Fields(line)
	if len(line) > 200 || len(words) == 0 {
		return w, badHours("%q: write hours as \"Mon-Fri 20:00-06:00 Europe/Berlin\"", line[:min(len(line), 200)])
	}
	for i := range w.days {
		w.days[i] = true
	}
	if !strings.Contains(words[0], ":") {
		if w.days, err = parseDays(words[0]); err != nil {
			return w, err
		}
		words = words[1:]
	}
	if len(words) == 0 || len(words) > 2 {
		return w, badHours("%q: write hours as \"Mon-Fri 20:00-06:00 Europe/Berlin\"", line)
	}
	from, to, _ := strings.Cut(words[0], "-")
	a, okA := clock(from)
	b, okB := clock(to)
	if !okA || !okB || a == minutesOfDay || a == b {
		return w, badHours("%q: write opening and closing time as 20:00-06:00; 00:00-24:00 is the whole day", words[0])
	}
	w.from, w.to = a, b
	if len(words) == 2 {
		if w.zone, err = time.LoadLocation(words[1]); err != nil || words[1] == "Local" {
			return w, badHours("%q is no time zone: write it as Europe/Berlin", words[1])
		}
	}
	return w, nil
}

func parseDays(text string) (days [7]bool, err error) {
	for part := range strings.SplitSeq(text, ",") {
		first, last, several := strings.Cut(part, "-")
		a := slices.Index(weekdays, strings.ToLower(first))
		b := a
		if several {
			b = slices.Index(weekdays, strings.ToLower(last))
		}
		if a < 0 || b < 0 {
			return days, badHours("%q are no days: write Mon-Fri, or Sat,Sun", text)
		}
		for d := a; ; d = (d + 1) % 7 {
			days[d] = true
			if d == b {
				break
			}
		}
	}
	return days, nil
}

// clock reads HH:MM as minutes of the day.
func clock(text string) (int, bool) {
	hour, minute, ok := strings.Cut(text, ":")
	h, errH := strconv.ParseUint(hour, 10, 8)
	m, errM := strconv.ParseUint(minute, 10, 8)
	at := int(h)*60 + int(m)
	return at, ok && errH == nil && errM == nil && len(hour) <= 2 && len(minute) == 2 && m < 60 && at <= minutesOfDay
}

// on is the window that opens on the day of t, so many days later; ok is false where none does. On the days when clocks are
// changed it is as long as the clock on the wall says.
func (w window) on(t time.Time, later int) (from, to time.Time, ok bool) {
	y, m, d := t.In(w.zone).Date()
	end := d + later
	if w.to <= w.from {
		end++
	}
	from = time.Date(y, m, d+later, 0, w.from, 0, 0, w.zone)
	to = time.Date(y, m, end, 0, w.to, 0, 0, w.zone)
	return from, to, w.days[time.Date(y, m, d+later, 12, 0, 0, 0, w.zone).Weekday()] && from.Before(to)
}

// Open reports whether upgrades may start at t.
func (h Hours) Open(t time.Time) bool { return len(h) == 0 || !h.until(t).IsZero() }

// until is the last end of the windows that t is in; zero outside of all.
func (h Hours) until(t time.Time) (end time.Time) {
	for _, w := range h {
		for _, later := range []int{-1, 0} {
			if from, to, ok := w.on(t, later); ok && !t.Before(from) && t.Before(to) && to.After(end) {
				end = to
			}
		}
	}
	return end
}

// Next is the first moment from t on at which upgrades may start: t itself where it is one. It is zero where no window opens
// within two weeks.
func (h Hours) Next(t time.Time) (next time.Time) {
	if h.Open(t) {
		return t
	}
	for _, w := range h {
		for later := range 15 {
			if from, _, ok := w.on(t, later); ok && from.After(t) {
				if next.IsZero() || from.Before(next) {
					next = from
				}
				break
			}
		}
	}
	return next
}

// Closes is when the hours that t is in end, counting windows that follow each other without a gap as one; zero where they never do,
// and outside of them.
func (h Hours) Closes(t time.Time) time.Time {
	if len(h) == 0 {
		return time.Time{}
	}
	end := h.until(t)
	for range 8 * len(h) {
		more := h.until(end)
		if end.IsZero() || more.IsZero() {
			return end
		}
		end = more
	}
	return time.Time{}
}

// told is a moment for a person.
func told(t time.Time) string { return fmt.Sprintf("%s UTC", t.UTC().Format("2006-01-02 15:04")) }
