package recipe

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule tells when a recipe is due.
type Schedule interface {
	// Next is the first moment after t, in t's time zone: ask with UTC.
	Next(t time.Time) time.Time
}

// Cron reads the schedule: five fields as in crontab(5), or @hourly, @daily, @weekly, @monthly, @yearly. It is in UTC,
// so no time zone may be given, and no interval since the start of a program (@every), because there are several.
func (t Triggers) Cron() (Schedule, error) {
	text := strings.TrimSpace(t.Schedule)
	if len(text) > 200 || strings.Contains(text, "TZ=") || strings.HasPrefix(text, "@every") || strings.HasPrefix(text, "@reboot") {
		return nil, fmt.Errorf("%q: write minute, hour, day, month and weekday in UTC, for example \"0 3 * * 1\"", t.Schedule)
	}
	s, err := cron.ParseStandard(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not a cron expression (minute, hour, day, month, weekday): %w", t.Schedule, err)
	}
	// The next moment is looked for through five years; the 30th of February is not found.
	if s.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, fmt.Errorf("%q: that moment never comes", t.Schedule)
	}
	return s, nil
}

// Urgencies are the words of Debian's changelogs (policy 5.6.17), the lowest first. Critical and emergency mean the same.
func Urgencies() []string { return []string{"low", "medium", "high", "critical"} }

// UrgencyRank is how high an urgency is, from 1; 0 for one that is not known.
func UrgencyRank(word string) int {
	word, _, _ = strings.Cut(strings.ToLower(strings.TrimSpace(word)), " ")
	if word == "emergency" {
		word = "critical"
	}
	for i, u := range Urgencies() {
		if u == word {
			return i + 1
		}
	}
	return 0
}
