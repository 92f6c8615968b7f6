package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/version"
)

// Loop works until its context ends.
type Loop func(ctx context.Context) error

// Serve runs the loops until one fails or ctx ends; then all are ended and waited for. A loop that ended because
// ctx did is no error.
func Serve(ctx context.Context, loops ...Loop) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range loops {
		group.Go(func() error { return l(ctx) })
	}
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// DefaultConfigFile is read where no --config-file is given and it exists.
const DefaultConfigFile = "/etc/kiln/kiln.conf"

// Main is the whole of a program: flags, configuration, log, signals, and run. It returns the exit status.
func Main(program, about string, run func(ctx context.Context, p *Parts) error) int {
	var files []string
	cmd := &cobra.Command{
		Use: program, Short: about, Args: cobra.NoArgs, Version: version.String(),
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(files)
			if err != nil {
				return err
			}
			logger, closeLog, err := NewLogger(program, cfg.Config)
			if err != nil {
				return err
			}
			defer closeLog()
			for _, w := range cfg.Warnings {
				logger.Warning(w)
			}
			p, err := Open(cmd.Context(), program, cfg.Config, logger)
			if err != nil {
				return err
			}
			defer p.Close()
			logger.WithField("version", version.String()).Info("started")
			defer logger.Info("stopped")
			return run(cmd.Context(), p)
		},
	}
	cmd.Flags().StringArrayVar(&files, "config-file", nil, "configuration file; may be given several times, later ones win")
	return Execute(cmd)
}

// Execute runs a command until SIGINT or SIGTERM and returns the exit status; errors go to standard error.
func Execute(cmd *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := cmd.ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", cmd.Name(), err)
		return 1
	}
	return 0
}

// LoadConfig reads the files, or the default one where none is named.
func LoadConfig(files []string, skip ...string) (*config.Loaded, error) {
	if len(files) == 0 {
		if _, err := os.Stat(DefaultConfigFile); err == nil {
			files = []string{DefaultConfigFile}
		}
	}
	return config.Load(files, skip...)
}

// NewLogger makes the program's logger; the function closes its file.
func NewLogger(program string, cfg config.Config) (*logrus.Logger, func(), error) {
	lc := log.Config{Program: program, Debug: cfg.Default.Debug, JSON: cfg.Default.LogJSON}
	if cfg.Default.LogFile == "" {
		return log.New(lc), func() {}, nil
	}
	f, err := os.OpenFile(cfg.Default.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, nil, fmt.Errorf("[DEFAULT] log_file: %w", err)
	}
	lc.Output = f
	return log.New(lc), func() { f.Close() }, nil //nolint:errcheck // the last thing the program does
}
