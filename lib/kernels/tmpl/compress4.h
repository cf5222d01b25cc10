/* compress4.h  The bytes of the kept lanes of four, for ISAs that have a byte shuffle but no compress: row `kept` of the table moves them to the front. */
#ifndef SFFN_TMPL_COMPRESS4_H
#define SFFN_TMPL_COMPRESS4_H
#include <stdint.h>

#define D0 0, 1, 2, 3
#define D1 4, 5, 6, 7
#define D2 8, 9, 10, 11
#define D3 12, 13, 14, 15
static const uint8_t compress4_order[16][16] = {
    { D0, D1, D2, D3 }, { D0, D1, D2, D3 }, { D1, D0, D2, D3 }, { D0, D1, D2, D3 },
    { D2, D0, D1, D3 }, { D0, D2, D1, D3 }, { D1, D2, D0, D3 }, { D0, D1, D2, D3 },
    { D3, D0, D1, D2 }, { D0, D3, D1, D2 }, { D1, D3, D0, D2 }, { D0, D1, D3, D2 },
    { D2, D3, D0, D1 }, { D0, D2, D3, D1 }, { D1, D2, D3, D0 }, { D0, D1, D2, D3 },
};
#undef D0
#undef D1
#undef D2
#undef D3

#endif /* SFFN_TMPL_COMPRESS4_H */
