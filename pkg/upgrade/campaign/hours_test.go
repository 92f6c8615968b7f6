package campaign_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

func moment(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestHours(t *testing.T) {
	// 2026-03-02 is a Monday; Berlin is an hour ahead of UTC until 2026-03-29 01:00 UTC, two hours then until 2026-10-25 01:00 UTC.
	for _, c := range []struct{ lines, at, next, closes string }{ // in UTC; next "" for now
		{"", "2026-03-02 12:00", "", "never"},
		{"20:00-06:00", "2026-03-02 12:00", "2026-03-02 20:00", ""},
		{"20:00-06:00", "2026-03-02 20:00", "", "2026-03-03 06:00"},
		{"20:00-06:00", "2026-03-02 05:59", "", "2026-03-02 06:00"},
		{"20:00-06:00", "2026-03-02 06:00", "2026-03-02 20:00", ""},
		{"Mon-Fri 20:00-06:00 Europe/Berlin", "2026-03-02 18:59", "2026-03-02 19:00", ""},
		{"Mon-Fri 20:00-06:00 Europe/Berlin", "2026-03-06 20:00", "", "2026-03-07 05:00"},                  // Friday's reaches into Saturday
		{"Mon-Fri 20:00-06:00 Europe/Berlin", "2026-03-07 05:00", "2026-03-09 19:00", ""},                  // and then it is Monday
		{"Mon-Fri 20:00-06:00 Europe/Berlin", "2026-03-02 04:59", "2026-03-02 19:00", ""},                  // Sunday has none that would reach into Monday
		{"Sat 20:00-06:00 Europe/Berlin", "2026-03-28 20:00", "", "2026-03-29 04:00"},                      // nine hours, clocks go forward
		{"Sat 20:00-06:00 Europe/Berlin", "2026-10-24 20:00", "", "2026-10-25 05:00"},                      // eleven hours, clocks go back
		{"02:00-03:00 Europe/Berlin", "2026-03-28 23:30", "2026-03-30 00:00", ""},                          // that hour does not exist on the 29th
		{"Fri-Mon 00:00-24:00", "2026-03-05 12:00", "2026-03-06 00:00", ""},                                // over the end of the week
		{"Fri-Mon 00:00-24:00", "2026-03-07 12:00", "", "2026-03-10 00:00"},                                // days that follow each other are one
		{"Mon 22:00-24:00;Tue 00:00-02:00;Tue 02:00-03:00", "2026-03-02 23:00", "", "2026-03-03 03:00"},    // lines that follow each other, too
		{"Sun 10:00-12:00;Sat,Wed 1:00-2:00 America/New_York", "2026-03-02 00:00", "2026-03-04 06:00", ""}, // the first of several
		{"Mon-Sun 00:00-24:00", "2026-03-07 12:00", "", "never"},
	} {
		var lines []string
		if c.lines != "" {
			lines = strings.Split(c.lines, ";")
		}
		h, err := campaign.ParseHours(lines)
		if err != nil {
			t.Errorf("%s: %v", c.lines, err)
			continue
		}
		at := moment(t, c.at)
		if h.Open(at) != (c.next == "") {
			t.Errorf("%s at %s: open %v", c.lines, c.at, h.Open(at))
		}
		want := at
		if c.next != "" {
			want = moment(t, c.next)
		}
		if got := h.Next(at); !got.Equal(want) {
			t.Errorf("%s at %s: opens next at %s, want %s", c.lines, c.at, got.UTC(), want)
		}
		var closes time.Time
		if c.closes != "" && c.closes != "never" {
			closes = moment(t, c.closes)
		}
		if got := h.Closes(at); !got.Equal(closes) {
			t.Errorf("%s at %s: closes at %s, want %s", c.lines, c.at, got.UTC(), closes)
		}
	}
}

func TestHoursThatAreRefused(t *testing.T) {
	for _, line := range []string{
		"", "Mon", "20:00", "20-06", "Mon-Fri", "Mon-Fri 20:00-06:00 Mars/Olympus", "20:00-06:00 Local", "Monday 20:00-06:00", "25:00-26:00", "24:00-06:00", "10:60-11:00",
		"10:00-10:00", "20:00-06:00 Europe/Berlin now", "20:00-06:00 ../../etc/passwd", "Mon,,Tue 1:00-2:00", "-1:00-2:00", "1:0-2:00", strings.Repeat("x", 500),
	} {
		if _, err := campaign.ParseHours([]string{line}); err == nil {
			t.Errorf("%q was taken", line)
		}
	}
	if _, err := campaign.ParseHours(make([]string, 51)); err == nil {
		t.Error("51 lines were taken")
	}
}

// holds checks what must be so for all hours at all times.
func holds(t *testing.T, line string, at time.Time) {
	t.Helper()
	h, err := campaign.ParseHours([]string{line})
	if err != nil {
		return
	}
	next := h.Next(at)
	if !next.IsZero() && (next.Before(at) || !h.Open(next)) {
		t.Errorf("%q: next after %s is %s, which is not open", line, at, next)
	}
	if closes := h.Closes(at); !closes.IsZero() && (!closes.After(at) || h.Open(closes)) {
		t.Errorf("%q: closes after %s at %s, which is open", line, at, closes)
	}
}

func FuzzHours(f *testing.F) {
	f.Add("Mon-Fri 20:00-06:00 Europe/Berlin", int64(1_772_366_400))
	f.Add("02:30-02:45 America/Sao_Paulo", int64(0))
	f.Fuzz(func(t *testing.T, line string, unix int64) { holds(t, line, time.Unix(unix%(1<<33), 0)) })
}

// Any hours in zones that change their clocks, at any time of some years.
func TestHoursHold(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	days := []string{"", "Mon-Fri ", "Sun ", "Sat,Wed ", "Fri-Tue "}
	zones := []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "UTC"}
	for range 20_000 {
		line := fmt.Sprintf("%s%02d:%02d-%02d:%02d %s", days[r.IntN(len(days))], r.IntN(24), r.IntN(4)*15, r.IntN(25), r.IntN(4)*15, zones[r.IntN(len(zones))])
		holds(t, line, time.Unix(1_700_000_000+r.Int64N(100_000_000), 0))
	}
}
