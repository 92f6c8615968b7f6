package cli

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/job"
)

func (a *app) jobLog() *cobra.Command {
	return a.logCommand("Show what a job said", func(_ context.Context, _ *client.Client, id string) (string, error) { return id, nil })
}

func (a *app) buildLog() *cobra.Command {
	return a.logCommand("Show what a build said", func(ctx context.Context, c *client.Client, id string) (string, error) {
		var b build.Build
		err := c.Get(ctx, "/v1/builds/"+url.PathEscape(id), &b)
		return b.JobID, err
	})
}

// logCommand shows the log of the job that find gives for an argument.
func (a *app) logCommand(about string, find func(ctx context.Context, c *client.Client, id string) (jobID string, err error)) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{Use: "log ID", Short: about, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		id, err := find(cmd.Context(), c, args[0])
		if err != nil {
			return err
		}
		write := func(lines []job.LogLine) {
			for _, l := range lines {
				fmt.Fprintf(a.out, "%s %-7s %s\n", l.At.Format("15:04:05"), l.Level, l.Text) //nolint:errcheck // standard output
			}
		}
		if follow {
			_, err = c.WaitJob(cmd.Context(), id, time.Second, func(u client.JobUpdate) { write(u.Lines) })
			return err
		}
		for seq := int64(0); ; {
			lines, err := c.JobLog(cmd.Context(), id, seq)
			if err != nil || len(lines) == 0 {
				return err
			}
			write(lines)
			seq = lines[len(lines)-1].Seq
		}
	}}
	cmd.Flags().BoolVar(&follow, "follow", false, "until the job ends")
	return cmd
}

// searchBuilds looks for a text in what builds and other jobs said.
func (a *app) searchBuilds() *cobra.Command {
	var since time.Duration
	var id string
	var most int
	cmd := &cobra.Command{Use: "search TEXT", Short: "Find lines in the logs of the project's builds and other jobs, the newest first", Args: cobra.ExactArgs(1)}
	cmd.Flags().DurationVar(&since, "since", 7*24*time.Hour, "how far back, for example 48h")
	cmd.Flags().StringVar(&id, "build", "", "id of the one build to search")
	cmd.Flags().IntVar(&most, "limit", 100, "most lines, 1000 at most")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		q := url.Values{"text": {args[0]}, "limit": {strconv.Itoa(most)}}
		if id != "" {
			q.Set("build_id", id)
		} else {
			q.Set("since", time.Now().Add(-since).UTC().Format(time.RFC3339))
		}
		var page struct{ Logs []row }
		if err := c.Get(cmd.Context(), "/v1/logs?"+q.Encode(), &page); err != nil {
			return err
		}
		return a.print(page.Logs, []string{"at", "resource", "level", "text"})
	}
	return cmd
}
